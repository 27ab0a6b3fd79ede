//! Real networks on one machine: anonymous network namespaces, links between them, and traffic.
//!
//! Everything is done through netlink, ioctls and `/proc`, so that a test or an example needs nothing but
//! Linux: no `ip`, `ethtool` or `nft`. A [`Namespace`] has no name in the file system; it and the links in
//! it vanish with the process, even where that is killed.
//!
//! | file | holds |
//! | --- | --- |
//! | `namespace` | [`Namespace`]: make, enter, run closures and threads inside |
//! | `sysctl` | kernel settings of one namespace |
//! | `link` | [`veth`], [`bridge`] and [`Interface`]: state, MAC, MTU, addresses |
//! | `route` | [`Route`]: via a gateway, on a device, blackhole and its kin |
//! | `neighbour` | permanent, deleted and listed neighbours |
//! | `ethtool` | [`Offload`]: checksum, segmentation and receive offloads |
//! | `statistics` | the kernel's own counters, typed |
//! | `raw` | [`RawSender`]: packets from whomever |
//! | `http`, `udp`, `pattern` | servers and clients for scenarios |
//! | `topology` | [`LoadBalancerTopology`]: a client, a balancer and backends |
//! | `kernel_test` | what a test needs of the machine, [`require_kernel!`](crate::require_kernel) |
//! | `wait` | [`wait_for`]: wait for a condition, never for luck |
//! | `sys` | the only unsafe code: `unshare`, `setns`, `ioctl`, `poll` |
//!
//! ```no_run
//! use dataplane_testkit::net::{HttpServer, Namespace, http, veth};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
//! let (near, far) = veth(&client, "eth0", &server, "eth0")?;
//! near.add_address("192.0.2.1/24".parse()?)?;
//! far.add_address("192.0.2.2/24".parse()?)?;
//! let web = HttpServer::start(&server, "web", &["192.0.2.2:80".parse()?])?;
//! let answer = client.run(|| http::get("192.0.2.2:80".parse()?, "/name", Duration::from_secs(1)))?;
//! assert_eq!(answer.body, b"web");
//! # web.stop();
//! # Ok(())
//! # }
//! ```

mod error;
mod ethtool;
pub mod http;
mod kernel_test;
mod link;
mod namespace;
mod neighbour;
mod netlink;
mod pattern;
mod raw;
mod route;
mod statistics;
mod sys;
mod sysctl;
mod topology;
mod udp;
mod wait;

pub use error::NetError;
pub use ethtool::Offload;
pub use http::HttpServer;
pub use kernel_test::{KERNEL_TEST_LOG, MissingPrivilege, REQUIRE_KERNEL, capabilities, kernel_test};
pub use link::{Interface, MacAddress, bridge, veth};
pub use namespace::Namespace;
pub use neighbour::{Neighbour, NeighbourState};
pub use raw::RawSender;
pub use route::{Route, RouteKind};
pub use statistics::{
    Icmp6Statistics, IcmpStatistics, InterfaceCounters, IpStatistics, Statistics, TcpMoreStatistics,
    TcpStatistics, UdpStatistics,
};
pub use topology::{
    AddressPlan, BackendHost, BackendLinks, HostAddresses, LoadBalancerTopology, LoadBalancerTopologyBuilder,
};
pub use udp::{UdpClient, UdpEchoServer, UdpError, UdpReply};
pub use wait::{WaitTimeout, wait_for};
