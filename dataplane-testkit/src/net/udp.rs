//! UDP: a server that says its name with each echo, and a client that waits no longer than told.

use std::io::{self, PipeReader, PipeWriter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Namespace, NetError, sys};

/// Between the server's name and the payload.
const SEPARATOR: u8 = b'\n';

/// Largest datagram.
const MOST: usize = 65_535;

/// How often the server looks around though nothing wakes it.
const TICK: Duration = Duration::from_millis(500);

/// Answers each datagram with its name, a line feed and the payload. Dropping it stops it.
#[derive(Debug)]
pub struct UdpEchoServer {
    name: String,
    addresses: Vec<SocketAddr>,
    received: Arc<AtomicU64>,
    /// Closing it ends the threads.
    wake: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpEchoServer {
    /// Starts a server on each of these addresses (port 0: any) inside `namespace`. Bind to the very
    /// address that clients use: an answer from the unspecified address may leave by another.
    ///
    /// # Errors
    /// [`NetError::Bind`], EADDRNOTAVAIL where no interface has the address.
    pub fn start(
        namespace: &Namespace,
        name: impl Into<String>,
        addresses: &[SocketAddr],
    ) -> Result<Self, NetError> {
        let sockets = namespace.run(|| {
            let bind = |&address| {
                let socket = UdpSocket::bind(address).and_then(|socket| {
                    // A datagram with a wrong checksum wakes poll and is gone at the read.
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                });
                socket.map_err(|source| NetError::Bind {
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
        let mut server = Self {
            name: name.into(),
            addresses: Vec::new(),
            received: Arc::default(),
            wake: Some(wake),
            threads: Vec::new(),
        };
        for socket in sockets {
            server.addresses.push(socket.local_addr().map_err(thread_failed)?);
            let stopped = stopped.try_clone().map_err(thread_failed)?;
            let (name, received) = (server.name.clone().into_bytes(), Arc::clone(&server.received));
            server.threads.push(namespace.spawn(move || echo(&socket, &stopped, &name, &received))?);
        }
        Ok(server)
    }

    /// The server's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses it listens on, with the ports it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Datagrams received so far; one is counted before its echo leaves.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops; all threads have ended when it returns.
    pub fn stop(self) {}
}

impl Drop for UdpEchoServer {
    fn drop(&mut self) {
        self.wake = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn echo(socket: &UdpSocket, stopped: &PipeReader, name: &[u8], received: &AtomicU64) {
    let prefix = name.len() + 1;
    let mut buffer = vec![0; prefix + MOST];
    buffer[..name.len()].copy_from_slice(name);
    buffer[name.len()] = SEPARATOR;
    loop {
        match sys::wait_readable(socket.as_fd(), stopped.as_fd(), TICK) {
            Ok((_, true)) | Err(_) => return,
            Ok((false, false)) => continue,
            Ok((true, false)) => {}
        }
        // An error here is an ICMP answer to an earlier echo; the client sees that it got none.
        let Ok((length, client)) = socket.recv_from(&mut buffer[prefix..]) else { continue };
        received.fetch_add(1, Ordering::Relaxed);
        // Where it can't be sent (no route back) the client gets no echo, which is what it waits for.
        socket.send_to(&buffer[..prefix + length], client).ok();
    }
}

/// A socket of one client, connected to one server's address, for any number of exchanges from the same
/// port. Make it inside [`Namespace::run`].
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    server: SocketAddr,
}

/// An echo.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpReply {
    /// The name of the server that received.
    pub server: String,
    /// From the request's sending to the answer.
    pub elapsed: Duration,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[error("UDP {operation} with {server}: {source}")]
pub struct UdpError {
    operation: &'static str,
    server: SocketAddr,
    source: io::Error,
}

impl UdpError {
    /// Whether no answer came in time, as opposed to an ICMP error or a local one.
    pub fn is_timeout(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
    }
}

/// The ports that clients get, in turn: below those that Linux gives out by itself, and draws again at any time.
const PORTS: RangeInclusive<u16> = 10_000..=32_767;

impl UdpClient {
    /// A socket to `server`, of a port that no client of this process had among the last some 20,000: what it sends is a
    /// flow of its own.
    ///
    /// # Errors
    /// [`UdpError`], ENETUNREACH where there is no route.
    pub fn connect(server: SocketAddr) -> Result<Self, UdpError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut tries = PORTS.len();
        loop {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
            tries -= 1;
            match Self::connect_from((any, PORTS.start() + turn as u16).into(), server) {
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                outcome => return outcome,
            }
        }
    }

    /// A socket of a given address and port, to `server`.
    pub fn connect_from(local: SocketAddr, server: SocketAddr) -> Result<Self, UdpError> {
        let failed = |operation| move |source| UdpError { operation, server, source };
        let socket = UdpSocket::bind(local).map_err(failed("bind"))?;
        socket.connect(server).map_err(failed("connect"))?;
        Ok(Self { socket, server })
    }

    /// The socket's own address and port.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a datagram, once, and waits for its echo. Echoes of earlier datagrams are passed over, so give each a
    /// payload of its own.
    ///
    /// # Errors
    /// [`UdpError`]: no echo within `timeout`, or what the network received instead (ECONNREFUSED, EHOSTUNREACH).
    pub fn exchange(&self, payload: &[u8], timeout: Duration) -> Result<UdpReply, UdpError> {
        let failed = |operation| move |source| UdpError { operation, server: self.server, source };
        let started = Instant::now();
        self.socket.send(payload).map_err(failed("send"))?;
        let mut buffer = vec![0; MOST];
        loop {
            let left = timeout.checked_sub(started.elapsed()).filter(|left| !left.is_zero());
            let left = left.ok_or_else(|| failed("receive")(io::ErrorKind::TimedOut.into()))?;
            self.socket.set_read_timeout(Some(left)).map_err(failed("receive"))?;
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("receive")(error)),
            };
            let reply = &buffer[..length];
            let Some(end) = reply.iter().position(|byte| *byte == SEPARATOR) else { continue };
            if &reply[end + 1..] == payload {
                let server = String::from_utf8_lossy(&reply[..end]).into_owned();
                return Ok(UdpReply { server, elapsed: started.elapsed() });
            }
        }
    }
}
