//! Clients: each runs on a thread inside the client's namespace.

use std::{
    net::SocketAddr,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
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

/// So many requests to two addresses in turn.
pub fn repeat(
    count: u32,
    addresses: [SocketAddr; 2],
    request: fn(SocketAddr) -> Result<String, String>,
    progress: &AtomicU64,
    interrupt: &Interrupt,
) -> Tally {
    let mut tally = Tally::default();
    for address in addresses.into_iter().cycle().take(count as usize) {
        if interrupt.is_set() {
            break;
        }
        tally.count(request(address));
        progress.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

/// A long download, paced by the server; every byte is checked. `name` is who serves it, as found out beside.
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
