//! Peers whose every answer says who gave it and to what: a server of lines over TCP, and clients of chosen ports.
//!
//! Over TCP each line is answered by a line, the server's name and what was said; over UDP
//! [`UdpEchoServer`](dataplane_testkit::net::UdpEchoServer) does so. The client of a port closes first.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use dataplane_testkit::net::Namespace;
use rustix::net::{self, AddressFamily, Shutdown, SocketType, sockopt};

/// A connection on which nothing is said for so long is closed.
const IDLE: Duration = Duration::from_secs(20);
/// How often a connection's thread asks whether it is to end.
const TICK: Duration = Duration::from_millis(500);

/// What determines what a test does at random.
pub const SEED_VARIABLE: &str = "FOREBAY_TEST_SEED";

/// The seed that was asked for, or another one each time. Whoever takes it prints it.
pub fn seed() -> u64 {
    let other = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 % 1_000_000_000
    };
    env::var(SEED_VARIABLE).map_or_else(|_| other(), |seed| seed.parse().unwrap())
}

/// Answers each line with its name, a blank and the line. Dropping it stops it.
pub struct LineServer {
    stop: Arc<AtomicBool>,
    listeners: Vec<(Arc<TcpListener>, JoinHandle<()>)>,
}

impl LineServer {
    pub fn start(namespace: &Namespace, name: &str, addresses: &[SocketAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let listeners = addresses
            .iter()
            .map(|address| {
                let listener = Arc::new(namespace.run(|| TcpListener::bind(address).unwrap()));
                let (stop, name, twin) = (stop.clone(), name.to_owned(), listener.clone());
                (listener, namespace.spawn(move || accept(&twin, &name, &stop)).unwrap())
            })
            .collect();
        Self { stop, listeners }
    }
}

impl Drop for LineServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (listener, server) in self.listeners.drain(..) {
            // Wakes who waits for a connection.
            let woken = net::shutdown(&*listener, Shutdown::Both);
            let joined = if woken.is_ok() { server.join() } else { Ok(()) };
            // A second panic would hide the first one.
            if !thread::panicking() {
                woken.unwrap();
                joined.unwrap();
            }
        }
    }
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            // What was reset before it was accepted is the client's to notice; so is the end of what follows.
            let Ok((stream, _)) = listener.accept() else { continue };
            scope.spawn(move || answer(stream, name, stop).ok());
        }
    });
}

fn answer(stream: TcpStream, name: &str, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(512, stream);
    let (mut line, mut heard) = (String::new(), Instant::now());
    while !stop.load(Ordering::Relaxed) && heard.elapsed() < IDLE {
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => writer.write_all(format!("{name} {line}").as_bytes())?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        line.clear();
        heard = Instant::now();
    }
    Ok(())
}

/// Takes what an answer says: who gave it. It must be the answer to this.
fn name_in(answer: &str, said: &str, separator: char) -> io::Result<String> {
    match answer.split_once(separator) {
        Some((name, what)) if what == said => Ok(name.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{answer:?} is no answer to {said:?}"))),
    }
}

/// A client's connection, reset when it is dropped before its [`end`](Self::end).
pub struct LineClient {
    reader: BufReader<TcpStream>,
}

impl LineClient {
    /// From this address and port, in the calling thread's namespace. Each step takes no longer than `timeout`.
    pub fn connect(from: SocketAddr, to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let family = if from.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
        net::bind(&socket, &from)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        // It bounds connect(2) too.
        stream.set_write_timeout(Some(timeout))?;
        net::connect(&stream, &to)?;
        Ok(Self { reader: BufReader::with_capacity(512, stream) })
    }

    /// Says something, and hears who answers.
    pub fn ask(&mut self, what: &str) -> io::Result<String> {
        let line = format!("{what}\n");
        self.reader.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        if self.reader.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        name_in(&answer, &line, ' ')
    }

    /// Closes it, and waits until the server has.
    pub fn end(mut self) -> io::Result<()> {
        self.reader.get_mut().shutdown(std::net::Shutdown::Write)?;
        match self.reader.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "more than was asked for")),
        }
    }
}

/// A client's socket, connected: an answer from another address is none.
pub struct DatagramClient {
    socket: UdpSocket,
}

impl DatagramClient {
    /// From this address and port, in the calling thread's namespace.
    pub fn connect(from: SocketAddr, to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let family = if from.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = net::socket(family, SocketType::DGRAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &from)?;
        net::connect(&socket, &to)?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(timeout))?;
        Ok(Self { socket })
    }

    /// Sends it once.
    pub fn say(&self, what: &str) -> io::Result<()> {
        self.socket.send(what.as_bytes()).map(|_| ())
    }

    /// Who answered, if somebody has.
    pub fn heard(&self, what: &str) -> io::Result<Option<String>> {
        let mut room = [0; 512];
        match net::recv(&self.socket, &mut room, net::RecvFlags::DONTWAIT) {
            Ok((_, length)) => name_in(&String::from_utf8_lossy(&room[..length]), what, '\n').map(Some),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends it once, and hears who answers.
    pub fn ask(&self, what: &str) -> io::Result<String> {
        self.say(what)?;
        let mut room = [0; 512];
        let length = self.socket.recv(&mut room)?;
        name_in(&String::from_utf8_lossy(&room[..length]), what, '\n')
    }
}
