//! A line of the sources, changed.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

/// One line of the programs' sources, changed.
pub struct Mutation {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it breaks, for people.
    pub breaks: &'static str,
    /// The file, from the root of the repository.
    pub file: &'static str,
    /// The line as it is, without what it is indented by.
    pub from: &'static str,
    /// The line as it becomes.
    pub to: &'static str,
}

impl Mutation {
    /// Changes the line in the copy at `root`.
    pub fn apply(&self, root: &Path) -> Result<()> {
        let path = root.join(self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", self.file))?;
        let changed = self.changed(&text)?;
        fs::write(&path, changed).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The text with the line changed.
    fn changed(&self, text: &str) -> Result<String> {
        let count = text.lines().filter(|line| line.trim() == self.from).count();
        if count != 1 {
            bail!(
                "the mutation {} wants this line exactly once in {}, and it is there {count} times; \
                 keep xtask/src/mutation/list.rs up with the code:\n    {}",
                self.name,
                self.file,
                self.from
            );
        }
        let lines = text.lines().map(|line| if line.trim() == self.from { self.to } else { line });
        Ok(lines.flat_map(|line| [line, "\n"]).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{
        super::list::{AGREEMENT, EVENTS, HOST, TOLD, TORN},
        *,
    };

    #[test]
    fn each_line_stands_in_its_file_once() {
        let all = || AGREEMENT.iter().chain(TOLD).chain(EVENTS).chain(TORN).chain(HOST);
        for mutation in all() {
            let text = fs::read_to_string(crate::repo::root().join(mutation.file)).unwrap();
            let changed = mutation.changed(&text).unwrap();
            let differing = text.lines().zip(changed.lines()).filter(|(old, new)| old != new).count();
            assert_eq!(differing, 1, "{}", mutation.name);
            assert_eq!(text.lines().count(), changed.lines().count(), "{}", mutation.name);
        }
        let names: HashSet<_> = all().map(|mutation| mutation.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn a_line_that_is_not_there_or_twice_is_an_error() {
        let mutation = &AGREEMENT[0];
        assert!(mutation.changed("nothing of the kind").is_err());
        assert!(mutation.changed(&format!("{0}\n  {0}\n", mutation.from)).is_err());
    }
}
