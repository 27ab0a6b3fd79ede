//! Telling systemd how far we are (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names, and nothing where
//! nobody asked.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Who started us and wants to know.
#[derive(Debug, Default)]
pub struct Supervisor(Option<(UnixDatagram, SocketAddr)>);

impl Supervisor {
    /// The one that the environment names, if any.
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match address(&name).and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(supervisor) => Self(Some(supervisor)),
            Err(error) => {
                tracing::warn!(?name, %error, "NOTIFY_SOCKET names no socket that can be reached");
                Self::default()
            }
        }
    }

    /// Sends assignments, one a line, such as `READY=1`.
    pub fn tell(&self, assignments: &str) {
        if let Self(Some((socket, address))) = self
            && let Err(error) = socket.send_to_addr(assignments.as_bytes(), address)
        {
            tracing::warn!(%error, "cannot tell the supervisor");
        }
    }
}

/// A path, or behind `@` an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
