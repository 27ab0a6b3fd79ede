//! HTTP/1.1, as much of it as scenarios need, blocking and with a limit on everything.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /name` | the server's name |
//! | `GET /bytes/N` | N bytes of a pattern that tells each byte's place |
//! | `GET /bytes/N?rate=R` | the same, at R bytes a second |
//! | `POST /upload` | how many bytes came, and whether they were the pattern: `N intact` or `N broken` |
//!
//! The client functions run where they are called: inside [`Namespace::run`](super::Namespace::run).

mod client;
mod head;
mod server;

pub use client::{HttpError, Response, Transfer, download, download_while, download_with, get, upload};
pub use server::HttpServer;
