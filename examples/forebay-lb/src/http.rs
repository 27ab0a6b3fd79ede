//! A server for a few pages on the loopback: one request a connection, a limit on everything. Requests are parsed by
//! httparse.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The longest request, in bytes: browsers send some 1000.
const MOST: usize = 8 << 10;
/// The most header fields of a request.
const MOST_FIELDS: usize = 64;
/// Connections at once; one more is closed.
const MOST_CONNECTIONS: usize = 16;
/// From accepting a connection to the last byte of its request, and from there to the last one of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A page.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 404, 503, ….
    pub status: u16,
    /// Its media type.
    pub media_type: &'static str,
    /// What is shown.
    pub body: Arc<str>,
}

impl Answer {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, media_type: "text/plain; charset=utf-8", body: body.into().into() }
    }
}

/// Serves what `answer` gives for a path, for as long as the process lives. `answer` runs on several threads at once.
///
/// # Errors
/// Where the operating system gives no thread.
pub fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> io::Result<()> {
    let answer: Arc<dyn Fn(&str) -> Answer + Send + Sync> = Arc::new(answer);
    thread::Builder::new().name("status".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => take(stream, peer, &answer),
                Err(error) => {
                    // No more descriptors, most likely: not to be asked again at once.
                    tracing::warn!(%error, "cannot accept a connection for status");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })?;
    Ok(())
}

/// Handles a connection on a thread of its own, if there are not too many.
fn take(stream: TcpStream, peer: SocketAddr, answer: &Arc<dyn Fn(&str) -> Answer + Send + Sync>) {
    // Whoever handles a connection holds the answers, and so do we.
    if Arc::strong_count(answer) > MOST_CONNECTIONS {
        tracing::debug!(%peer, "too many connections for status");
        return;
    }
    let answer = Arc::clone(answer);
    let handled = thread::Builder::new().name("status".into()).spawn(move || {
        if let Err(error) = handle(stream, &*answer) {
            tracing::debug!(%peer, %error, "a connection for status ended early");
        }
    });
    if let Err(error) = handled {
        tracing::warn!(%error, "no thread for a connection for status");
    }
}

fn handle(mut stream: TcpStream, answer: &(dyn Fn(&str) -> Answer + Send + Sync)) -> io::Result<()> {
    let (answer, with_body) = match request(&mut stream)? {
        Request::Get { path, with_body } => (answer(path.split('?').next().unwrap_or_default()), with_body),
        Request::Refused(answer) => (answer, true),
    };
    let deadline = Instant::now() + PATIENCE;
    let Answer { status, media_type, body } = answer;
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        reason(status),
        body.len(),
    );
    write(&mut stream, head.as_bytes(), deadline)?;
    if with_body {
        write(&mut stream, body.as_bytes(), deadline)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // What was sent and not read would make a reset of our closing, and the answer would be lost on its way.
    let mut unread = [0; 1024];
    for _ in 0..64 {
        stream.set_read_timeout(Some(left(deadline)?))?;
        if stream.read(&mut unread)? == 0 {
            break;
        }
    }
    Ok(())
}

enum Request {
    Get { path: String, with_body: bool },
    Refused(Answer),
}

/// Reads a request, up to the empty line.
fn request(stream: &mut TcpStream) -> io::Result<Request> {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = vec![0; MOST];
    let mut length = 0;
    loop {
        let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) else {
            return Ok(Request::Refused(Answer::text(431, "the request is too long\n")));
        };
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(room)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => length += count,
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes.get(..length).unwrap_or_default()) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default().to_owned();
                return Ok(match request.method {
                    Some("GET") => Request::Get { path, with_body: true },
                    Some("HEAD") => Request::Get { path, with_body: false },
                    _ => Request::Refused(Answer::text(405, "there is nothing but GET and HEAD here\n")),
                });
            }
            Err(httparse::Error::TooManyHeaders) => {
                return Ok(Request::Refused(Answer::text(431, "the request has too many header fields\n")));
            }
            Err(error) => {
                return Ok(Request::Refused(Answer::text(
                    400,
                    format!("this is no HTTP request: {error}\n"),
                )));
            }
        }
    }
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        let written = stream.write(bytes)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, |path| Answer::text(200, format!("this is {path}"))).unwrap();
        address
    }

    fn ask(server: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_page_is_served_and_the_query_left_out() {
        let server = server();
        let answer = ask(server, b"GET /x?y=1 HTTP/1.1\r\nHost: here\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nthis is /x"),
            "{answer}"
        );
        let head = ask(server, b"HEAD /x HTTP/1.0\r\n\r\n");
        assert!(head.contains("Content-Length: 10\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn what_is_no_request_is_told_so_and_the_next_is_served() {
        let server = server();
        let long = [b"GET /", "x".repeat(MOST).as_bytes()].concat();
        let fields = [b"GET / HTTP/1.1\r\n", "a: b\r\n".repeat(MOST_FIELDS + 1).as_bytes(), b"\r\n"].concat();
        let cases: [(&[u8], u16); 7] = [
            (b"\0\x01\x02\r\n\r\n", 400),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"GET\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
            (&long, 431),
            (&fields, 431),
        ];
        for (request, status) in cases {
            let answer = ask(server, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
        assert!(ask(server, b"GET / HTTP/1.1\r\n\r\n").ends_with("this is /"));
    }

    /// Whoever says nothing, or says it slowly, is closed in time, and others are served meanwhile.
    #[test]
    fn silence_ends_and_keeps_nobody_waiting() {
        let server = server();
        let mut silent: Vec<_> = (0..3).map(|_| TcpStream::connect(server).unwrap()).collect();
        silent[0].write_all(b"GET / HT").unwrap();
        let begun = Instant::now();
        assert!(ask(server, b"GET / HTTP/1.1\r\n\r\n").ends_with("this is /"));
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        for mut stream in silent {
            stream.set_read_timeout(Some(PATIENCE * 4)).unwrap();
            let mut answer = Vec::new();
            // Closed, with or without a reset.
            match stream.read_to_end(&mut answer) {
                Ok(count) => assert_eq!(count, 0),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }

    #[test]
    fn there_are_never_too_many_connections() {
        let server = server();
        let begun = Instant::now();
        let mut held: Vec<_> =
            (0..4 * MOST_CONNECTIONS).map(|_| TcpStream::connect(server).unwrap()).collect();
        held.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        // Those over the limit are closed at once; those within it would be, for their silence, only later.
        while held.len() > MOST_CONNECTIONS {
            held.retain_mut(|stream| match stream.read(&mut [0]) {
                Ok(count) => count > 0,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            });
            assert!(begun.elapsed() < PATIENCE, "{} are open", held.len());
            thread::yield_now();
        }
        drop(held);
        let begun = Instant::now();
        loop {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            let asked = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
            if asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok()
                && answer.ends_with("this is /")
            {
                break;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "it serves nobody any more");
        }
    }
}
