//! Clients: each runs on a thread inside the client's namespace.

use std::{
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use dataplane_testkit::net::{UdpClient, http};

use crate::{Interrupt, tally::Tally};

const TIMEOUT: Duration = Duration::from_secs(5);

/// One HTTP request on a connection of its own.
pub fn get(address: SocketAddr) -> Result<String, String> {
    match http::get(address, "/name", TIMEOUT) {
        Ok(response) if response.status == 200 => {
            Ok(String::from_utf8_lossy(&response.body).trim().to_owned())
        }
        Ok(response) => Err(format!("{address}: HTTP status {}", response.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// One datagram from a port of its own.
pub fn echo(address: SocketAddr) -> Result<String, String> {
    UdpClient::connect(address)
        .and_then(|client| client.exchange(b"forebay", TIMEOUT))
        .map(|reply| reply.server)
        .map_err(|error| error.to_string())
}

/// How far the run is; clients wait for it, so that each stage has its share of requests.
#[derive(Clone, Default)]
pub struct Stage(Arc<AtomicU64>);

impl Stage {
    /// All backends serve; before that nobody asks but for the downloads.
    pub const ALL_SERVE: u64 = 1;
    /// One drains.
    pub const DRAINED: u64 = 2;
    /// It is gone.
    pub const GONE: u64 = 3;

    /// The run is here now.
    pub fn reach(&self, stage: u64) {
        self.0.fetch_max(stage, Ordering::Release);
    }

    fn wait_for(&self, stage: u64, interrupt: &Interrupt) {
        while self.0.load(Ordering::Acquire) < stage && !interrupt.is_set() {
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// So many requests to two addresses in turn: two thirds of them once all serve, the rest in halves once a backend
/// drained and once it is gone.
pub fn repeat(
    count: u32,
    addresses: [SocketAddr; 2],
    request: fn(SocketAddr) -> Result<String, String>,
    progress: &AtomicU64,
    stage: &Stage,
    interrupt: &Interrupt,
) -> Tally {
    let mut tally = Tally::default();
    for (number, address) in (0..count).zip(addresses.into_iter().cycle()) {
        stage.wait_for(
            match number {
                _ if number >= count / 6 * 5 => Stage::GONE,
                _ if number >= count / 3 * 2 => Stage::DRAINED,
                _ => Stage::ALL_SERVE,
            },
            interrupt,
        );
        if interrupt.is_set() {
            break;
        }
        tally.count(request(address));
        progress.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

/// A long download, paced by the server; every byte is checked.
pub fn download(
    address: SocketAddr,
    length: u64,
    rate: u64,
    received: &AtomicU64,
    interrupt: &Interrupt,
) -> Result<u64, String> {
    let progress = |bytes| {
        received.store(bytes, Ordering::Relaxed);
        if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match http::download_with(address, length, Some(rate), Duration::from_secs(20), progress) {
        Ok(transfer) if transfer.bytes == length => Ok(transfer.bytes),
        Ok(transfer) => {
            Err(format!("download from {address} ended after {} of {length} bytes", transfer.bytes))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// What [`get`] makes of a server that answers like this.
    fn get_from(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = get(address);
        server.join().unwrap();
        result
    }

    #[test]
    fn only_status_200_is_an_answer() {
        let name = get_from("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbackend0\n");
        assert_eq!(name, Ok("backend0".into()));
        for status in ["500 Internal Server Error", "404 Not Found", "204 No Content"] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\nbackend0\n");
            let error = get_from(answer.leak()).unwrap_err();
            assert!(error.ends_with(&format!("HTTP status {}", &status[..3])), "{error}");
        }
    }
}
