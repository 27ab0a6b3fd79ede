//! `embed INTERFACE…`: balances 203.0.113.10:80 until Enter is pressed.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

fn main() -> ExitCode {
    let interfaces: Vec<_> = env::args().skip(1).collect();
    let interfaces: Vec<_> = interfaces.iter().map(String::as_str).collect();
    if interfaces.is_empty() || interfaces.iter().any(|name| name.starts_with('-')) {
        eprintln!(
            "usage: embed INTERFACE…, as root; it balances 203.0.113.10:80 over 198.51.100.2 and .6, port 8080"
        );
        return ExitCode::from(2);
    }
    let until_enter = || {
        // Whether anybody reads it or not.
        drop(writeln!(
            io::stdout(),
            "balancing 203.0.113.10:80 on {}; press Enter to end",
            interfaces.join(", ")
        ));
        // Where standard input is closed or broken, that is an end too.
        drop(io::stdin().read_line(&mut String::new()));
    };
    match embed::balance(&interfaces, until_enter) {
        Ok(()) => ExitCode::SUCCESS,
        // As a shell tells of SIGPIPE: `embed eth0 | head -0` is no fault.
        Err(error) if is_closed_pipe(error.as_ref()) => ExitCode::from(141),
        Err(error) => {
            drop(writeln!(io::stderr(), "embed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
