//! Ports that the host's own sockets are not given by chance: `net.ipv4.ip_local_reserved_ports`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    ops::RangeInclusive,
};

use parking_lot::Mutex;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const LOCAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Some ports.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ports(Box<[bool; 65_536]>);

/// A host's settings. They are of the network namespace in which they were opened, whoever uses them later.
#[derive(Debug)]
pub(super) struct LocalPorts {
    reserved: Mutex<File>,
    /// Those that the host gives to its own sockets.
    given: RangeInclusive<u16>,
}

impl LocalPorts {
    /// Those of the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let given = local_ports(&std::fs::read_to_string(LOCAL)?)?;
        let reserved = OpenOptions::new().read(true).write(true).open(RESERVED)?;
        Ok(Self { reserved: Mutex::new(reserved), given })
    }

    /// Those that the host gives to its own sockets unless they are reserved.
    pub(super) fn given(&self) -> RangeInclusive<u16> {
        self.given.clone()
    }

    /// Those that are reserved.
    pub(super) fn reserved(&self) -> io::Result<Ports> {
        read(&mut self.reserved.lock())
    }

    /// Reserves these and no others.
    pub(super) fn reserve(&self, ports: &Ports) -> io::Result<()> {
        write(&mut self.reserved.lock(), ports)
    }
}

fn local_ports(text: &str) -> io::Result<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read(file: &mut File) -> io::Result<Ports> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ports::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The kernel takes a list only as a whole, by one write.
fn write(file: &mut File, ports: &Ports) -> io::Result<()> {
    file.rewind()?;
    let text = ports.to_string() + "\n";
    match file.write(text.as_bytes())? {
        written if written == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

impl Ports {
    /// Those that this picks.
    pub(crate) fn of(is_in: impl Fn(u16) -> bool) -> Self {
        let mut ports = Self(Box::new([false; 65_536]));
        for (port, slot) in (0..=u16::MAX).zip(ports.0.iter_mut()) {
            *slot = is_in(port);
        }
        ports
    }

    /// Reads a list as the kernel writes it, such as `1,5-7`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut ports = Self::of(|_| false);
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            ports.add(first.parse().ok()?..=last.parse().ok()?);
        }
        Some(ports)
    }

    /// Whether this port is one of them.
    pub(crate) fn has(&self, port: u16) -> bool {
        self.0.get(usize::from(port)).is_some_and(|&is_in| is_in)
    }

    /// Adds ports.
    pub(crate) fn add(&mut self, range: RangeInclusive<u16>) {
        for port in range {
            if let Some(slot) = self.0.get_mut(usize::from(port)) {
                *slot = true;
            }
        }
    }

    /// They, in ranges as long as can be.
    pub(crate) fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|&port| self.has(port)) {
            match ranges.last_mut() {
                Some(range) if range.end().checked_add(1) == Some(port) => *range = *range.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, range) in self.ranges().iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ports({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use dataplane_testkit::{net::Namespace, require_kernel};

    use super::*;

    #[test]
    fn lists_are_those_of_the_kernel() {
        for text in ["", "8080", "8080,9148-9150", "0-65535", "1,3,5-7,65535"] {
            assert_eq!(Ports::parse(&format!("{text}\n")).unwrap().to_string(), text);
        }
        assert_eq!(Ports::parse("5,1-3,2-4").unwrap().to_string(), "1-5");
        for text in ["x", "1-", "70000", "1-2-3"] {
            assert_eq!(Ports::parse(text), None, "{text}");
        }
        assert_eq!(local_ports("32768\t60999\n").unwrap(), 32_768..=60_999);
        assert!(local_ports("32768").is_err());
    }

    /// The oracle is the kernel: what it gives a socket that asks for no port.
    #[test]
    fn sockets_keep_off() {
        require_kernel!();
        let host = Namespace::new("reserved ports").unwrap();
        host.run(|| {
            let text = || std::fs::read_to_string(RESERVED).unwrap();
            std::fs::write(LOCAL, "40000 40003").unwrap();
            std::fs::write(RESERVED, "40001,50000").unwrap();
            let ports = LocalPorts::open().unwrap();
            let before = ports.reserved().unwrap();
            assert_eq!(ports.given(), 40_000..=40_003);
            ports.reserve(&Ports::of(|port| before.has(port) || port == 40_002)).unwrap();
            assert_eq!(text(), "40001-40002,50000\n");
            let sockets: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
            let mut given: Vec<u16> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
            given.sort_unstable();
            assert_eq!(given, [40_000, 40_003]);
            assert!(UdpSocket::bind("0.0.0.0:0").is_err());
            ports.reserve(&before).unwrap();
            assert_eq!(text(), "40001,50000\n");
        });
    }
}
