//! A netlink socket that asks and waits for the answer.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::Socket;
use parking_lot::Mutex;

use super::message::{Header, Request, read};

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A netlink socket. Questions are asked one at a time.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: Mutex<u32>,
}

impl Netlink {
    /// Opens a socket of a protocol, `NETLINK_*`, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(isize::try_from(protocol).map_err(io::Error::other)?)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: Mutex::new(0) })
    }

    /// Sends a request that is acknowledged, or one for a list, and returns the bodies of the messages that come before
    /// the end.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn ask(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        let mut sequence = self.sequence.lock();
        *sequence = sequence.wrapping_add(1);
        self.socket.send(&request.finish(*sequence), 0)?;
        let mut bodies = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((header, body, next)) = split(rest) {
                rest = next;
                match header.kind {
                    // Left over from a question whose answer was not waited for.
                    _ if header.sequence != *sequence => {}
                    // An acknowledgement is an error with the number 0; a list ends with one, too.
                    ERROR | DONE => {
                        let code: i32 = read(body).unwrap_or(0);
                        if code == 0 {
                            return Ok(bodies);
                        }
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }
}

/// The first message of a datagram: its header, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let header: Header = read(bytes)?;
    let length = header.length as usize;
    let body = bytes.get(size_of::<Header>()..length)?;
    Some((header, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
