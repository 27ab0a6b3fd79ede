//! Writes the archive that the kernel unpacks as its first root: cpio in its "newc" format.
//!
//! The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: a header of thirteen
//! fields of eight hexadecimal digits, the name, the data, each padded to four bytes.

/// An archive in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

impl Archive {
    /// Adds a folder; its parent must have been added before.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file that everybody may read and execute.
    pub fn file(&mut self, path: &str, data: &[u8]) {
        self.entry(path, EXECUTABLE, data);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        let path = path.trim_start_matches('/');
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), its own device (2), length of the name with its NUL,
        // checksum (unused).
        let fields =
            [self.entries, mode, 0, 0, links, 0, size(data.len()), 0, 0, 0, 0, size(path.len() + 1), 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The format has 32 bits for a size; what we pack is far smaller.
fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::Archive;

    /// The oracle is busybox's own reader, where it is installed.
    #[test]
    fn other_readers_understand_it() {
        let mut archive = Archive::default();
        archive.folder("/a");
        archive.file("/a/odd", b"12345");
        archive.file("/empty", b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);

        let reader =
            Command::new("busybox").args(["cpio", "-t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut reader) = reader else { return };
        reader.stdin.take().expect("a pipe").write_all(&bytes).expect("the reader takes it all");
        let output = reader.wait_with_output().expect("the reader ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a\na/odd\nempty\n");
    }
}
