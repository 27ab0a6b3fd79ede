//! The servers and clients for scenarios: against each other, and against plain sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use dataplane_testkit::net::http::{self, HttpError};
use dataplane_testkit::net::{HttpServer, Namespace, NetError, UdpClient, UdpEchoServer, wait_for};
use dataplane_testkit::require_kernel;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

/// A namespace with a web server on both loopback addresses.
fn web() -> (Namespace, HttpServer) {
    let ns = Namespace::new("web").unwrap();
    let any = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let server = HttpServer::start(&ns, "web", &any).unwrap();
    (ns, server)
}

#[test]
fn a_server_says_its_name_on_every_address() {
    require_kernel!();
    let (ns, server) = web();
    assert!(server.addresses()[0].is_ipv4() && server.addresses()[1].is_ipv6());
    for &address in server.addresses() {
        let response = ns.run(|| http::get(address, "/name", SECOND)).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, &b"web"[..]));
        assert_eq!(ns.run(|| http::get(address, "/nowhere", SECOND)).unwrap().status, 404);
        assert_eq!(ns.run(|| http::get(address, "/bytes/x", SECOND)).unwrap().status, 400);
    }
    assert_eq!((server.connections(), server.requests()), (6, 6));
}

#[test]
fn a_plain_socket_gets_plain_http() {
    require_kernel!();
    let (ns, server) = web();
    let mut stream = ns.run(|| TcpStream::connect(server.addresses()[0]).unwrap());
    stream.set_read_timeout(Some(SECOND)).unwrap();
    // Two requests on one connection, the second closes it.
    stream.write_all(b"GET /name HTTP/1.1\r\n\r\nPOST /upload HTTP/1.1\r\nContent-Length: 3\r\n").unwrap();
    stream.write_all(b"Connection: close\r\n\r\nabc").unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let expected =
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nwebHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n3 broken";
    assert_eq!(answers, expected);
}

#[test]
fn transfers_are_counted_and_checked_byte_by_byte() {
    require_kernel!();
    let (ns, server) = web();
    for length in [0, 1, 65_537, 16 * 1024 * 1024] {
        for &address in server.addresses() {
            assert_eq!(ns.run(|| http::download(address, length, LONG)).unwrap().bytes, length);
            assert_eq!(ns.run(|| http::upload(address, length, LONG)).unwrap().bytes, length);
        }
    }
    let address = server.addresses()[0];
    let broken_off = ns.run(|| {
        http::download_with(address, u64::MAX, None, LONG, |bytes| {
            if bytes > 100_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    let bytes = broken_off.unwrap().bytes;
    assert!((100_001..1_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_download_keeps_to_its_rate() {
    require_kernel!();
    let (ns, server) = web();
    let address = server.addresses()[0];
    let transfer = ns
        .run(|| http::download_with(address, 50_000, Some(100_000), LONG, |_| ControlFlow::Continue(())))
        .unwrap();
    assert!(transfer.elapsed >= Duration::from_millis(490), "{transfer:?}");
}

/// However long it takes in all, and no longer than that in silence.
#[test]
fn a_download_that_goes_on_has_a_limit_on_silence() {
    require_kernel!();
    let (ns, server) = web();
    let (address, patience, started) = (server.addresses()[0], 3 * SECOND, Instant::now());
    let go_on = |_| {
        let longer = started.elapsed() > patience + SECOND;
        if longer { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let transfer = ns.run(|| http::download_while(address, 50, patience, go_on)).unwrap();
    assert!(transfer.elapsed > patience && transfer.bytes < 1_000, "{transfer:?}");

    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec();
    bytes.extend(ns.run(|| http::get(address, "/bytes/100", SECOND)).unwrap().body);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let client =
            scope.spawn(move || http::download_while(address, 50, SECOND, |_| ControlFlow::Continue(())));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&bytes).unwrap();
        // It stays open.
        let error = client.join().unwrap().unwrap_err();
        let HttpError::Broken { bytes: 100, elapsed, source, .. } = error else { panic!("{error}") };
        assert!(source.kind() == ErrorKind::TimedOut && elapsed >= SECOND, "{source} after {elapsed:?}");
    });
}

/// A server that sends `answer` to its first connection and closes it.
fn canned(answer: Vec<u8>) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _length = stream.read(&mut request).unwrap();
        stream.write_all(&answer).unwrap();
    });
    (address, thread)
}

#[test]
fn a_client_notices_what_is_wrong() {
    let answer = |body: &[u8], length: usize| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
    };
    let (address, thread) = canned(answer(&[0; 100], 100));
    let error = http::download(address, 100, SECOND).unwrap_err();
    assert!(matches!(error, HttpError::Corrupt { offset: 0, .. }), "{error}");
    thread.join().unwrap();

    let (address, thread) = canned(answer(b"short", 100));
    let error = http::get(address, "/name", SECOND).unwrap_err();
    assert!(matches!(error, HttpError::Broken { operation: "read the body", .. }), "{error}");
    thread.join().unwrap();

    let (address, thread) = canned(answer(b"", 99));
    let error = http::download(address, 100, SECOND).unwrap_err();
    assert!(matches!(error, HttpError::Answer { status: 200, .. }), "{error}");
    thread.join().unwrap();

    for nonsense in [&b""[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"] {
        let (address, thread) = canned(nonsense.to_vec());
        assert!(http::get(address, "/name", SECOND).is_err());
        thread.join().unwrap();
    }
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    let error = http::get(listener.local_addr().unwrap(), "/name", Duration::from_millis(100)).unwrap_err();
    assert!(
        matches!(&error, HttpError::Broken { source, .. } if source.kind() == std::io::ErrorKind::TimedOut)
    );
    assert!(started.elapsed() < Duration::from_secs(5), "{error}");
}

#[test]
fn stopping_cuts_what_is_open() {
    require_kernel!();
    let (ns, server) = web();
    let address = server.addresses()[0];
    let inside = ns.clone();
    let download = thread::spawn(move || inside.run(|| http::download(address, u64::MAX, LONG)));
    wait_for(SECOND, "the download runs", || server.connections() == 1).unwrap();
    let idle = ns.run(|| TcpStream::connect(address).unwrap());
    wait_for(SECOND, "the idle connection is accepted", || server.connections() == 2).unwrap();
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < SECOND, "took {:?}", started.elapsed());
    assert!(download.join().unwrap().is_err());
    assert_eq!((&idle).read(&mut [0]).unwrap_or(0), 0);
    let error = ns.run(|| http::get(address, "/name", SECOND)).unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error}");
}

#[test]
fn an_address_that_is_not_there_is_named() {
    require_kernel!();
    let ns = Namespace::new("x").unwrap();
    let address = "192.0.2.99:80".parse().unwrap();
    let error = HttpServer::start(&ns, "x", &[address]).unwrap_err();
    assert!(matches!(error, NetError::Bind { address: named, .. } if named == address), "{error}");
    assert!(UdpEchoServer::start(&ns, "x", &[address]).is_err());
}

#[test]
fn udp_is_echoed_with_the_servers_name() {
    require_kernel!();
    let ns = Namespace::new("x").unwrap();
    let any = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let server = UdpEchoServer::start(&ns, "echo", &any).unwrap();
    for &address in server.addresses() {
        let client = ns.run(|| UdpClient::connect(address)).unwrap();
        for payload in [&b""[..], b"one\ntwo", &[7; 1400]] {
            assert_eq!(client.exchange(payload, SECOND).unwrap().server, "echo");
        }
    }
    assert_eq!(server.received(), 6);
    let plain = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    plain.set_read_timeout(Some(SECOND)).unwrap();
    plain.send_to(b"hello", server.addresses()[0]).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = plain.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"echo\nhello"[..], server.addresses()[0]));
    // Nobody there, and somebody there who says nothing.
    let client = ns.run(|| UdpClient::connect(server.addresses()[0])).unwrap();
    server.stop();
    let error = client.exchange(b"x", SECOND).unwrap_err();
    assert!(!error.is_timeout(), "{error}");
    let silent = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let client = ns.run(|| UdpClient::connect(silent.local_addr().unwrap())).unwrap();
    assert!(client.exchange(b"x", Duration::from_millis(20)).unwrap_err().is_timeout());
}

#[test]
fn a_late_echo_is_not_taken_for_the_next() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpClient::connect(server.local_addr().unwrap()).unwrap();
    assert!(client.exchange(b"first", Duration::from_millis(20)).unwrap_err().is_timeout());
    server.send_to(b"late\nfirst", client.local_address().unwrap()).unwrap();
    server.send_to(b"right\nsecond", client.local_address().unwrap()).unwrap();
    assert_eq!(client.exchange(b"second", SECOND).unwrap().server, "right");
}
