//! A small server: a thread per address, a thread per connection, at most 512 connections.

use std::collections::HashMap;
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::{Namespace, NetError, pattern, sys};
use super::head::Head;

/// Connections at a time over all addresses; further ones wait in the kernel's backlog.
const MOST_CONNECTIONS: usize = 512;

/// A connection on which nothing moves for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// How often the accepting thread looks around though nothing wakes it.
const TICK: Duration = Duration::from_millis(200);

/// A server for [the requests of this module](crate::net::http). Dropping it stops it.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    /// Closing it wakes the accepting threads.
    wake: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts a server that listens on each of these addresses (port 0: any) inside `namespace`. When it
    /// returns, connections are accepted.
    ///
    /// # Errors
    /// [`NetError::Bind`], EADDRNOTAVAIL where no interface has the address.
    pub fn start(
        namespace: &Namespace,
        name: impl Into<String>,
        addresses: &[SocketAddr],
    ) -> Result<Self, NetError> {
        let shared = Arc::new(Shared { name: name.into(), ..Shared::default() });
        let listeners = namespace.run(|| {
            let bind = |&address| {
                let listener = TcpListener::bind(address).and_then(|listener| {
                    // A connection may be gone between poll and accept, which must not block then.
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                });
                listener.map_err(|source| NetError::Bind {
                    address,
                    namespace: namespace.label().to_owned(),
                    source,
                })
            };
            addresses.iter().map(bind).collect::<Result<Vec<_>, _>>()
        })?;
        let thread_failed = |source| NetError::Namespace {
            operation: "start a server's thread",
            namespace: namespace.label().to_owned(),
            source,
        };
        let (stopped, wake) = io::pipe().map_err(thread_failed)?;
        let mut server = Self { shared, addresses: Vec::new(), wake: Some(wake), threads: Vec::new() };
        for listener in listeners {
            server.addresses.push(listener.local_addr().map_err(thread_failed)?);
            let (shared, stopped) = (Arc::clone(&server.shared), stopped.try_clone().map_err(thread_failed)?);
            server.threads.push(namespace.spawn(move || accept_loop(&listener, &stopped, &shared))?);
        }
        Ok(server)
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The addresses it listens on, with the ports it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests that came in so far; one is counted before its answer leaves.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Stops: new connections are refused, open ones are cut, all threads have ended when it returns.
    pub fn stop(self) {}
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.wake = None;
        for stream in self.shared.open().values() {
            // It may have been closed by the other side: that is what we want.
            stream.shutdown(Shutdown::Both).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    name: String,
    stop: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, TcpStream>> {
        // Only inserts and removals happen under the lock: a panic elsewhere leaves it whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn accept_loop(listener: &TcpListener, stopped: &PipeReader, shared: &Shared) {
    // The scope's end waits for every connection's thread.
    thread::scope(|scope| {
        while !shared.stopping() {
            if shared.open().len() >= MOST_CONNECTIONS {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match sys::wait_readable(listener.as_fd(), stopped.as_fd(), TICK) {
                Ok((true, _)) => {}
                Ok((false, _)) => continue,
                Err(_) => return,
            }
            // What fails here concerns that one connection (reset before it was accepted), or is out of
            // descriptors, which the next round finds better or worse.
            let Ok((stream, _)) = listener.accept() else { continue };
            let id = shared.connections.fetch_add(1, Ordering::Relaxed);
            let Ok(twin) = stream.try_clone() else { continue };
            shared.open().insert(id, twin);
            let started = thread::Builder::new().spawn_scoped(scope, move || {
                // Cut off, slow or wrong: the client sees it on its side.
                serve(stream, shared).ok();
                shared.open().remove(&id);
            });
            if started.is_err() {
                shared.open().remove(&id);
            }
        }
    });
}

/// Answers requests on one connection until the client closes it or asks for that.
fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut writer = stream;
    while !shared.stopping() {
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let close = head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let mut words = head.first_line.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match (method, target) {
            ("GET", "/name") => answer(&mut writer, "200 OK", shared.name.as_bytes())?,
            ("GET", target) if target.starts_with("/bytes/") => match parse_bytes(target) {
                Some((length, rate)) => stream_pattern(&mut writer, length, rate, shared)?,
                None => answer(&mut writer, "400 Bad Request", b"/bytes/N or /bytes/N?rate=R\n")?,
            },
            ("POST", "/upload") => match head.content_length()? {
                Some(length) => {
                    let verdict = swallow(&mut reader, length)?;
                    answer(&mut writer, "200 OK", verdict.as_bytes())?;
                }
                None => answer(&mut writer, "411 Length Required", b"")?,
            },
            ("GET" | "POST", _) => answer(&mut writer, "404 Not Found", b"")?,
            _ => {
                answer(&mut writer, "501 Not Implemented", b"")?;
                return Ok(());
            }
        }
        if close {
            return Ok(());
        }
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes)
}

/// `/bytes/N` and `/bytes/N?rate=R`.
fn parse_bytes(target: &str) -> Option<(u64, Option<u64>)> {
    let rest = target.strip_prefix("/bytes/")?;
    match rest.split_once("?rate=") {
        None => Some((rest.parse().ok()?, None)),
        Some((length, rate)) => {
            Some((length.parse().ok()?, Some(rate.parse().ok().filter(|rate| *rate > 0)?)))
        }
    }
}

fn stream_pattern(stream: &mut TcpStream, length: u64, rate: Option<u64>, shared: &Shared) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
    // At a given rate about fifty pieces a second, so that it flows evenly.
    let piece = rate.map_or(64 * 1024, |rate| (rate / 50).clamp(1, 64 * 1024));
    let mut buffer = vec![0; piece as usize];
    let started = Instant::now();
    let mut sent = 0;
    while sent < length {
        if shared.stopping() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let now = &mut buffer[..piece.min(length - sent) as usize];
        pattern::fill(sent, now);
        sent += now.len() as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            // In short naps, so that a stop is not kept waiting.
            while let Some(early) = due.checked_sub(started.elapsed()).filter(|_| !shared.stopping()) {
                thread::sleep(early.min(Duration::from_millis(50)));
            }
        }
        stream.write_all(now)?;
    }
    Ok(())
}

/// Reads a body and says what it was.
fn swallow(stream: &mut impl Read, length: u64) -> io::Result<String> {
    let mut verifier = pattern::Verifier::default();
    let mut body = stream.take(length);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match body.read(&mut buffer)? {
            0 => break,
            count => verifier.check(&buffer[..count]),
        }
    }
    if verifier.length() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let verdict = if verifier.first_difference().is_none() { "intact" } else { "broken" };
    Ok(format!("{} {verdict}", verifier.length()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_targets_are_parsed() {
        assert_eq!(parse_bytes("/bytes/0"), Some((0, None)));
        assert_eq!(parse_bytes("/bytes/10?rate=5"), Some((10, Some(5))));
        for wrong in ["/bytes/", "/bytes/x", "/bytes/1?rate=0", "/bytes/1?rate=", "/bytes/-1", "/name"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }
}
