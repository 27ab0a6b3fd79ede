//! Client functions: one connection each, and a limit of time: for all of it, or where that is said for each silence on it.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::super::pattern;
use super::head::Head;

/// Longest body that is kept in memory; [`download`] keeps none.
const MOST_BODY: u64 = 1024 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection came about.
    #[error("connect to {address} after {elapsed:?}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// How long it took to fail.
        elapsed: Duration,
        /// The kernel's answer; `TimedOut` where none came.
        source: io::Error,
    },
    /// The connection broke, or the time was over.
    #[error("{operation} with {address} after {elapsed:?} and {bytes} bytes of body: {source}")]
    Broken {
        /// Reading or writing what.
        operation: &'static str,
        /// The other side.
        address: SocketAddr,
        /// Time since the request began.
        elapsed: Duration,
        /// Bytes of body until then.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer is not what was asked for.
    #[error("{address} answered {status}: {detail}")]
    Answer {
        /// The other side.
        address: SocketAddr,
        /// The answer's status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
    /// A byte of the body is not the pattern's: something on the way changed, lost or doubled it.
    #[error("the body from {address} differs from the pattern at offset {offset}")]
    Corrupt {
        /// The other side.
        address: SocketAddr,
        /// Offset of the first wrong byte.
        offset: u64,
    },
    /// The address can't be parsed: only for callers that parse with `?` beside requests.
    #[error(transparent)]
    Address(#[from] std::net::AddrParseError),
}

/// An answer with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// HTTP status, 200 for success.
    pub status: u16,
    /// The body, at most 1 MiB.
    pub body: Vec<u8>,
}

/// A transfer that went through, every byte in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Bytes of body.
    pub bytes: u64,
    /// From before the connection until after the last byte.
    pub elapsed: Duration,
}

/// `GET path` on a connection of its own, all of it within `timeout`.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> Result<Response, HttpError> {
    let mut exchange = Exchange::begin(address, timeout)?;
    exchange.send(&format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))?;
    exchange.response()
}

/// `GET /bytes/length`, checked against the pattern as it arrives, all of it within `timeout`.
pub fn download(address: SocketAddr, length: u64, timeout: Duration) -> Result<Transfer, HttpError> {
    download_with(address, length, None, timeout, |_| ControlFlow::Continue(()))
}

/// [`download`], at most `rate` bytes a second, telling `progress` the bytes so far about every 64 KiB or whenever some
/// arrive. Where `progress` breaks, the connection is closed and what came until then is the result.
pub fn download_with(
    address: SocketAddr,
    length: u64,
    rate: Option<u64>,
    timeout: Duration,
    progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Transfer, HttpError> {
    receive(Exchange::begin(address, timeout)?, length, rate, None, progress)
}

/// Downloads for as long as `progress` lets it go on, however long that is, at most `rate` bytes a second, and fails where
/// no byte arrives for `patience`; the first one may take so long from the beginning. Otherwise as [`download_with`].
pub fn download_while(
    address: SocketAddr,
    rate: u64,
    patience: Duration,
    progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Transfer, HttpError> {
    receive(Exchange::begin(address, patience)?, u64::MAX, Some(rate), Some(patience), progress)
}

/// The rest of a download. `patience`: each byte that arrives gives the next one so long.
fn receive(
    mut exchange: Exchange,
    length: u64,
    rate: Option<u64>,
    patience: Option<Duration>,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Transfer, HttpError> {
    let address = exchange.address;
    let rate = rate.map(|rate| format!("?rate={rate}")).unwrap_or_default();
    exchange.send(&format!(
        "GET /bytes/{length}{rate} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    ))?;
    let (status, promised) = exchange.head()?;
    if status != 200 || promised != length {
        let detail = format!("a body of {promised} bytes, asked for {length}");
        return Err(HttpError::Answer { address, status, detail });
    }
    let mut verifier = pattern::Verifier::default();
    let mut buffer = vec![0; 64 * 1024];
    while verifier.length() < length {
        let count = exchange.read_body(&mut buffer, length - verifier.length())?;
        verifier.check(&buffer[..count]);
        if let Some(offset) = verifier.first_difference() {
            return Err(HttpError::Corrupt { address, offset });
        }
        if progress(verifier.length()).is_break() {
            break;
        }
        if let Some(patience) = patience {
            exchange.give_another(patience);
        }
    }
    Ok(Transfer { bytes: verifier.length(), elapsed: exchange.started.elapsed() })
}

/// `POST /upload` with `length` bytes of the pattern; the server says whether it got them intact.
pub fn upload(address: SocketAddr, length: u64, timeout: Duration) -> Result<Transfer, HttpError> {
    let mut exchange = Exchange::begin(address, timeout)?;
    exchange.send(&format!(
        "POST /upload HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    ))?;
    let mut buffer = vec![0; 64 * 1024];
    while exchange.bytes < length {
        let piece =
            &mut buffer[..usize::try_from(length - exchange.bytes).unwrap_or(usize::MAX).min(64 * 1024)];
        pattern::fill(exchange.bytes, piece);
        exchange.write("write the body", piece)?;
        exchange.bytes += piece.len() as u64;
    }
    let response = exchange.response()?;
    let verdict = String::from_utf8_lossy(&response.body).into_owned();
    if response.status != 200 || verdict != format!("{length} intact") {
        return Err(HttpError::Answer { address, status: response.status, detail: verdict });
    }
    Ok(Transfer { bytes: length, elapsed: exchange.started.elapsed() })
}

/// One connection with one limit for everything on it, which may be put off.
struct Exchange {
    address: SocketAddr,
    stream: BufReader<Limited>,
    started: Instant,
    bytes: u64,
}

impl Exchange {
    fn begin(address: SocketAddr, timeout: Duration) -> Result<Self, HttpError> {
        let started = Instant::now();
        let stream = TcpStream::connect_timeout(&address, timeout)
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(stream)
            })
            .map_err(|source| HttpError::Connect { address, elapsed: started.elapsed(), source })?;
        let limited = Limited { stream, deadline: started + timeout };
        Ok(Self { address, stream: BufReader::with_capacity(64 * 1024, limited), started, bytes: 0 })
    }

    /// Ends it so long from now instead, unless something arrives.
    fn give_another(&mut self, patience: Duration) {
        self.stream.get_mut().deadline = Instant::now() + patience;
    }

    fn send(&mut self, head: &str) -> Result<(), HttpError> {
        self.write("write the request", head.as_bytes())
    }

    fn write(&mut self, operation: &'static str, bytes: &[u8]) -> Result<(), HttpError> {
        self.stream.get_mut().write_all(bytes).map_err(|error| self.broken(operation, error))
    }

    fn response(&mut self) -> Result<Response, HttpError> {
        let (status, length) = self.head()?;
        if length > MOST_BODY {
            let detail = format!("a body of {length} bytes, {MOST_BODY} are taken at most");
            return Err(HttpError::Answer { address: self.address, status, detail });
        }
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).map_err(|error| self.broken("read the body", error))?;
        Ok(Response { status, body })
    }

    /// The status and the body's length.
    fn head(&mut self) -> Result<(u16, u64), HttpError> {
        let head = match Head::read(&mut self.stream) {
            Ok(Some(head)) => head,
            Ok(None) => return Err(self.broken("read the answer", io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(self.broken("read the answer", error)),
        };
        let status = head
            .first_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        match head.content_length() {
            Ok(Some(length)) if status != 0 => Ok((status, length)),
            _ => Err(HttpError::Answer { address: self.address, status, detail: head.first_line }),
        }
    }

    /// Reads some of the body, at least one byte, at most `most`.
    fn read_body(&mut self, buffer: &mut [u8], most: u64) -> Result<usize, HttpError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        loop {
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => return Err(self.broken("read the body", io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    self.bytes += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken("read the body", error)),
            }
        }
    }

    fn broken(&self, operation: &'static str, source: io::Error) -> HttpError {
        let (address, elapsed, bytes) = (self.address, self.started.elapsed(), self.bytes);
        HttpError::Broken { operation, address, elapsed, bytes, source }
    }
}

/// A stream on which nothing waits beyond one point in time, however little moves at once.
struct Limited {
    stream: TcpStream,
    deadline: Instant,
}

impl Limited {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A blocking socket answers EAGAIN when its time is over.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}
