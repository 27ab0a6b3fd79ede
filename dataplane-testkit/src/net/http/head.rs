//! The first line and the header fields, of a request or an answer.

use std::io::{self, BufRead, Read};

/// Longest head that is read, in bytes.
const LIMIT: u64 = 16 * 1024;

pub(super) struct Head {
    pub(super) first_line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads up to the empty line. `None` where the other side closed before the first byte.
    pub(super) fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut stream = Read::take(stream, LIMIT);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            Ok(line)
        };
        let first_line = line()?;
        if first_line.is_empty() {
            return Ok(None);
        }
        let mut fields = Vec::new();
        loop {
            let field = line()?;
            if !field.ends_with('\n') {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the head is cut off or too long"));
            }
            let field = field.trim_end();
            if field.is_empty() {
                return Ok(Some(Self { first_line: first_line.trim_end().to_owned(), fields }));
            }
            let (name, value) = field.split_once(':').ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no header field: {field:?}"))
            })?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// A field's value; `name` in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body's length in bytes, `None` where the head does not say.
    pub(super) fn content_length(&self) -> io::Result<Option<u64>> {
        let parse = |value: &str| {
            value.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("Content-Length {value:?} is no number"))
            })
        };
        self.field("content-length").map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    #[test]
    fn a_head_ends_at_the_empty_line() {
        let mut stream = &b"GET /name HTTP/1.1\r\nHost: x\r\nContent-LENGTH:  12\r\n\r\nbody"[..];
        let head = Head::read(&mut stream).unwrap().unwrap();
        assert_eq!(head.first_line, "GET /name HTTP/1.1");
        assert_eq!(head.content_length().unwrap(), Some(12));
        assert_eq!(head.field("accept"), None);
        assert_eq!(stream, b"body");
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert!(Head::read(&mut &b""[..]).unwrap().is_none());
        for cut in ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x", "GET / HTTP/1.1\r\nno field\r\n\r\n"] {
            assert!(Head::read(&mut cut.as_bytes()).is_err(), "{cut:?}");
        }
        let endless = "x: y\r\n".repeat(10_000);
        assert!(Head::read(&mut endless.as_bytes()).is_err());
        let mut odd = &b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"[..];
        assert!(Head::read(&mut odd).unwrap().unwrap().content_length().is_err());
    }
}
