//! The entries of folders that decide what a path means.
//!
//! A path leads over links, and links can be switched: Kubernetes mounts a ConfigMap as
//! `services.yaml -> ..data/services.yaml` and `..data -> ..2026_11_21`, and switches the latter. So each entry on the
//! way is one whose change can change what is read.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::load;

/// As many links one after another as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What has to be watched to see each change of what a path means, in absolute paths without links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trail {
    /// Folders to watch, and the file itself where the path is that of one: a file that is mounted alone changes
    /// without a change of any folder that is seen here.
    pub(crate) watched: BTreeSet<PathBuf>,
    /// Entries of those folders that matter.
    pub(crate) entries: BTreeSet<PathBuf>,
    /// A folder whose documents matter, whatever they are called.
    pub(crate) folder: Option<PathBuf>,
}

impl Trail {
    /// Follows a path, and where it leads to a folder the links in it. A path that leads nowhere has a trail too:
    /// up to the entry that is missing.
    ///
    /// # Errors
    /// Where the path is relative and the current folder is unknown.
    pub(crate) fn follow(path: &Path) -> io::Result<Self> {
        let mut trail = Self::default();
        let Some(end) = trail.walk(&std::path::absolute(path)?) else {
            return Ok(trail);
        };
        if end.is_dir() {
            for document in load::files_of(&end).unwrap_or_default() {
                if document.is_symlink() {
                    trail.walk(&document);
                }
            }
            trail.watched.insert(end.clone());
            trail.folder = Some(end);
        } else {
            trail.watched.insert(end);
        }
        Ok(trail)
    }

    /// Notes the entries on the way of an absolute path. Gives its end, if it leads anywhere.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let mut here = PathBuf::from("/");
        let mut ahead: Vec<PathBuf> = components(path);
        let mut links = 0;
        let mut last = None;
        while let Some(step) = ahead.pop() {
            match step.components().next() {
                Some(Component::ParentDir) => {
                    here.pop();
                    continue;
                }
                Some(Component::RootDir) => {
                    here = PathBuf::from("/");
                    continue;
                }
                Some(Component::Normal(_)) => {}
                _ => continue,
            }
            let entry = here.join(&step);
            match fs::read_link(&entry) {
                Ok(target) => {
                    self.note(&entry);
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    ahead.extend(components(&target));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    here = entry.clone();
                    last = Some(entry);
                }
                // It is not there, or cannot be looked at.
                Err(_) => {
                    self.note(&entry);
                    return None;
                }
            }
        }
        if let Some(last) = last.filter(|last| *last == here) {
            self.note(&last);
        }
        Some(here)
    }

    fn note(&mut self, entry: &Path) {
        if let Some(folder) = entry.parent() {
            self.watched.insert(folder.to_owned());
        }
        self.entries.insert(entry.to_owned());
    }
}

/// The parts of a path, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|component| PathBuf::from(component.as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    #[test]
    fn a_plain_file_is_watched_with_its_folder() {
        let (_keep, folder) = folder();
        let file = folder.join("a.yaml");
        fs::write(&file, "").unwrap();
        let trail = Trail::follow(&file).unwrap();
        assert_eq!(trail.watched, [folder, file.clone()].into());
        assert_eq!(trail.entries, [file].into());
        assert_eq!(trail.folder, None);
    }

    #[test]
    fn each_link_on_the_way_counts() {
        let (_keep, folder) = folder();
        let (mount, real) = (folder.join("mount"), folder.join("mount/..1"));
        fs::create_dir_all(&real).unwrap();
        fs::write(real.join("a.yaml"), "").unwrap();
        symlink("..1", mount.join("..data")).unwrap();
        symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
        let by_file = Trail::follow(&mount.join("a.yaml")).unwrap();
        assert_eq!(by_file.watched, [mount.clone(), real.clone(), real.join("a.yaml")].into());
        let entries = [mount.join("a.yaml"), mount.join("..data"), real.join("a.yaml")];
        assert_eq!(by_file.entries, entries.into());

        let by_folder = Trail::follow(&mount).unwrap();
        assert_eq!(by_folder.folder, Some(mount.clone()));
        assert!(by_folder.entries.is_superset(&by_file.entries));
        assert!(by_folder.watched.contains(&folder) && by_folder.watched.contains(&real));
    }

    #[test]
    fn what_is_missing_is_waited_for_where_it_would_appear() {
        let (_keep, folder) = folder();
        let trail = Trail::follow(&folder.join("later/on/a.yaml")).unwrap();
        assert_eq!(trail.watched, [folder.clone()].into());
        assert_eq!(trail.entries, [folder.join("later")].into());
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_keep, folder) = folder();
        symlink("b.yaml", folder.join("a.yaml")).unwrap();
        symlink("a.yaml", folder.join("b.yaml")).unwrap();
        let trail = Trail::follow(&folder.join("a.yaml")).unwrap();
        assert_eq!(trail.entries, [folder.join("a.yaml"), folder.join("b.yaml")].into());
        symlink("../nowhere/../a", folder.join("c.yaml")).unwrap();
        let trail = Trail::follow(&folder.join("c.yaml")).unwrap();
        assert!(trail.entries.contains(&folder.parent().unwrap().join("nowhere")));
    }
}
