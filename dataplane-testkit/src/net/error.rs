//! What can go wrong while a network is built or read.

use std::io;

/// An operation on a namespace, a link or one of its settings failed.
///
/// Each variant says what was tried and in which namespace; `source()` is the kernel's errno.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A namespace could not be made or entered.
    #[error(
        "{operation} for network namespace {namespace}: {source}; this needs CAP_SYS_ADMIN and CAP_NET_ADMIN (run as root)"
    )]
    Namespace {
        /// What was tried, for example `unshare(CLONE_NEWNET)`.
        operation: &'static str,
        /// The namespace's label.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request, or did not answer it in time.
    #[error("{operation} in network namespace {namespace}: {source}")]
    Netlink {
        /// What was tried, with its arguments.
        operation: String,
        /// The namespace's label.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No interface of that name or index is in the namespace.
    #[error(
        "network namespace {namespace} has no interface {interface}; create it first, or look at Namespace::interfaces()"
    )]
    NoSuchInterface {
        /// The namespace's label.
        namespace: String,
        /// The interface that was asked for.
        interface: String,
    },
    /// A file below `/proc` could not be read or written.
    #[error(
        "{path} in network namespace {namespace}: {source}; is /proc mounted, and does this kernel have it?"
    )]
    Proc {
        /// The file.
        path: String,
        /// The namespace's label.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file below `/proc` has a form that this code does not know.
    #[error("{path} in network namespace {namespace}: {detail}")]
    UnknownFormat {
        /// The file.
        path: String,
        /// The namespace's label.
        namespace: String,
        /// What was expected.
        detail: String,
    },
    /// An ethtool request failed.
    #[error("ethtool {operation} on {interface} in network namespace {namespace}: {source}")]
    Ethtool {
        /// What was tried.
        operation: String,
        /// The interface.
        interface: String,
        /// The namespace's label.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A server could not bind its address.
    #[error(
        "bind {address} in network namespace {namespace}: {source}; add the address to an interface there first"
    )]
    Bind {
        /// The address and port.
        address: std::net::SocketAddr,
        /// The namespace's label.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The state that was asked for did not come about in time.
    #[error("network namespace {namespace}: {source}")]
    Wait {
        /// The namespace's label.
        namespace: String,
        /// What was waited for, and for how long.
        source: super::WaitTimeout,
    },
    /// A topology was asked for that the address plan has no room for.
    #[error("{count} backends asked for, the address plan has room for 1 to {most}")]
    BackendCount {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        most: usize,
    },
}
