//! Measures what criterion can't, and puts everything into one report. `cargo xtask bench` calls it.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use benches::{collector, connect, estimates, machine::Machine, packets, profile::Profile, report::Report};
use clap::Parser;
use dataplane_testkit::net;

/// Measures packets and connects, and writes the report.
#[derive(Parser)]
struct Arguments {
    /// Folder for the report
    #[arg(long)]
    out: PathBuf,
    /// Folder of criterion's results
    #[arg(long)]
    criterion: PathBuf,
    /// Object with the bench programs
    #[arg(long)]
    object: Option<PathBuf>,
    /// Something that was not measured, and why
    #[arg(long)]
    missing: Vec<String>,
    /// Seconds that criterion took
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let profile = Profile::SMOKE;
    let machine = Machine::look();
    let start = Instant::now();
    let mut missing = arguments.missing;
    let (mut packets, mut collection, mut connects, mut failed) = (None, None, None, Vec::new());
    match net::capabilities() {
        Ok(()) => {
            if let Some(object) = &arguments.object {
                eprintln!("packets through the kernel's programs …");
                packets = kept(packets::measure(&profile, object), "packets", &mut failed);
            }
            eprintln!("the collector …");
            collection = kept(collector::measure(&profile), "collector", &mut failed);
            eprintln!("new connections …");
            connects = kept(connect::measure(&profile), "connects", &mut failed);
        }
        Err(reason) => missing.push(format!("packets, the collector, connects, kernel tables: {reason}")),
    }
    if let Some(connects) = &mut connects {
        missing.append(&mut connects.missing);
    }
    missing.extend(failed.iter().cloned());
    let report = Report {
        profile: profile.name,
        machine,
        packets,
        collection,
        connects,
        estimates: estimates::read(&arguments.criterion)?,
        missing,
        seconds: arguments.seconds + start.elapsed().as_secs_f64(),
    };

    let file = |extension| arguments.out.join(profile.name).with_extension(extension);
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make the folder {}", arguments.out.display()))?;
    fs::write(file("md"), report.to_string())?;
    fs::write(file("json"), serde_json::to_string_pretty(&report)?)?;
    print!("{report}");
    eprintln!("written: {} and {}", file("md").display(), file("json").display());
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// A part that fails does not take the others with it.
fn kept<T>(result: Result<T>, what: &str, failed: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| failed.push(format!("{what}: FAILED: {error:#}"))).ok()
}
