//! Real traffic: sockets in network namespaces, through a dataplane that is filled by its public API only.
//!
//! | file | asks |
//! | --- | --- |
//! | `balance` | is every flow balanced, answered by the virtual address, and counted, at each hook? |
//! | `one_arm` | and where frames leave by the interface that they came in by, errors and parts of packets too? |
//! | `transfer` | does every byte arrive, one or 64 MiB, either way? |
//! | `neighbour` | is nothing lost while a neighbour is being resolved? |
//! | `removal` | what do connections feel of backends that go, come and drain? |
//! | `local` | are backends on the balancer itself answered for? |
//! | `masquerade` | do backends that know no way to a client answer all the same, and is no flow mixed up with another? |
//! | `nat_range` | and what of a restart with another range of ports? |
//! | `affinity` | does a client come to the same backend again, as long as that takes new connections? |
//! | `others` | what becomes of packets that are not served? |
//! | `conntrack` | do flows live as long as they should, and no longer? |
//! | `ports` | what becomes of 60,000 flows to one destination where there are fewer ports? |
//! | `strangers` | do programs of others in front of ours and behind it see every packet that is not ours? |
//! | `soak` | does anything fail, get mixed up or leak while services and backends change without end? |
//! | `twin` | does what works through the kernel's own NAT work through ours? |
//! | `upgrade` | what do connections feel of an agent that is stopped, killed and replaced? |
//! | `answers` | is whoever sent what is dropped told of it? |
//! | `addresses` | what becomes of what comes to a virtual address and is of no service? |
//! | `errors` | do ICMP errors about what is balanced reach whom they are for? |
//! | `flood` | do connections outlive a flood of packets from forged sources, and do others come through? |
//! | `fragments` | do datagrams that are too long for one packet arrive whole? |
//! | `torn` | does a packet ever see half of one list and half of another? |

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod addresses;
mod affinity;
mod answers;
mod balance;
#[path = "../common/bpf.rs"]
mod bpf;
mod conntrack;
mod errors;
mod flood;
mod fragments;
#[path = "../common/kernel.rs"]
mod kernel;
mod local;
mod masquerade;
mod nat_range;
mod neighbour;
mod one_arm;
mod others;
mod peers;
mod ports;
mod removal;
mod soak;
mod strangers;
mod torn;
mod transfer;
mod twin;
mod upgrade;
mod world;
