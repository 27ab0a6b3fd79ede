//! `embed INTERFACE…`: balances 203.0.113.10:80 until Enter is pressed.

use std::{env, io, process::ExitCode};

fn main() -> ExitCode {
    let interfaces: Vec<_> = env::args().skip(1).collect();
    let interfaces: Vec<_> = interfaces.iter().map(String::as_str).collect();
    if interfaces.is_empty() {
        eprintln!(
            "usage: embed INTERFACE…, as root; it balances 203.0.113.10:80 over 198.51.100.2 and .6, port 8080"
        );
        return ExitCode::from(2);
    }
    let until_enter = || {
        println!("balancing 203.0.113.10:80 on {}; press Enter to end", interfaces.join(", "));
        // Where standard input is closed or broken, that is an end too.
        drop(io::stdin().read_line(&mut String::new()));
    };
    match embed::balance(&interfaces, until_enter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}
