//! Files and folders to a picture.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    MAX_BYTES,
    errors::{Error, Errors, Place, Problem},
    picture::{Gathering, Picture},
};

/// How often reading begins again where files change under it.
const ATTEMPTS: usize = 3;

/// Reads a file, or all `*.yaml` and `*.yml` files of a folder in the order of their names, as one picture.
///
/// Of a folder, files whose names begin with a dot and folders in it are left out; links are followed.
///
/// # Errors
/// [`Errors`] has all that is wrong in all of the files; one of them is enough that there is no picture. A file
/// that is not there, a folder without documents and a document without content are errors, never an empty picture.
pub fn load(path: impl AsRef<Path>) -> Result<Picture, Errors> {
    read(path.as_ref()).picture
}

/// What one reading found.
pub(crate) struct Loaded {
    pub(crate) picture: Result<Picture, Errors>,
    /// Of what was read; none where something could not be read.
    pub(crate) digest: Option<u64>,
    /// Of the files, after which a look without reading tells whether they changed.
    pub(crate) stamp: Stamp,
}

/// Which files there are, and their size, time of change and identity.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<(PathBuf, Option<FileStamp>)>);

#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The stamp of what is at a path now. Costs a `stat` for each file.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let files = files_of(path).unwrap_or_default();
    Stamp(
        files
            .into_iter()
            .map(|file| {
                let stamp = fs::metadata(&file).ok().map(|metadata| FileStamp::of(&metadata));
                (file, stamp)
            })
            .collect(),
    )
}

/// Reads everything at a path, as it was at one moment: where files change meanwhile, reading begins again.
pub(crate) fn read(path: &Path) -> Loaded {
    for _ in 0..ATTEMPTS {
        let before = stamp(path);
        let (picture, digest) = read_once(path);
        if stamp(path) == before {
            return Loaded { picture, digest, stamp: before };
        }
    }
    Loaded { picture: Err(whole_file(path, Problem::Unsettled)), digest: None, stamp: Stamp::default() }
}

fn read_once(path: &Path) -> (Result<Picture, Errors>, Option<u64>) {
    let files = match files_of(path) {
        Ok(files) if files.is_empty() => return (Err(whole_file(path, Problem::NoFiles)), None),
        Ok(files) => files,
        Err(error) => return (Err(whole_file(path, unreadable(error))), None),
    };
    let mut gathering = Gathering::default();
    let mut digest = DefaultHasher::new();
    let mut complete = true;
    let mut room = MAX_BYTES;
    for file in files {
        match read_file(&file, room) {
            Ok(bytes) => {
                room = room.saturating_sub(bytes.len());
                file.hash(&mut digest);
                bytes.hash(&mut digest);
                gathering.read(&bytes, &Arc::from(file));
            }
            Err(problem) => {
                gathering.report.push(error(&file, problem));
                complete = false;
            }
        }
    }
    (gathering.finish(), complete.then(|| digest.finish()))
}

/// The documents at a path: itself, or those in it. In the order of their names.
pub(crate) fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = path.join(entry?.file_name());
        // A link that leads nowhere is a document that cannot be read, not a document that is not there.
        let is_folder = fs::metadata(&file).is_ok_and(|metadata| metadata.is_dir());
        if is_document(&file) && !is_folder {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file in a folder is a document, by its name.
pub(crate) fn is_document(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = file.extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml"))
}

/// The bytes of a regular file, at most `room` of them.
pub(crate) fn read_file(file: &Path, room: usize) -> Result<Vec<u8>, Problem> {
    // Not blocking: to open a pipe would else wait for its writer.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let opened: File = opened.map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Problem::NotAFile);
    }
    let most = u64::try_from(room).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(most)).unwrap_or_default());
    opened.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > room {
        return Err(Problem::TooLarge { limit: MAX_BYTES });
    }
    Ok(bytes)
}

fn unreadable(error: io::Error) -> Problem {
    Problem::Unreadable { error: Arc::new(error) }
}

fn error(file: &Path, problem: Problem) -> Error {
    Error::new(Place::new(&Arc::from(file), None), String::new(), problem)
}

pub(crate) fn whole_file(file: &Path, problem: Problem) -> Errors {
    error(file, problem).into()
}
