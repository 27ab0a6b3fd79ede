//! The results, as a table for people and as JSON.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::{collector::Collection, connect::Connects, estimates, machine::Machine, packets::Packets};

/// Everything that a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the profile.
    pub profile: &'static str,
    /// What it ran on.
    pub machine: Machine,
    /// Packets through the kernel's programs.
    pub packets: Option<Packets>,
    /// The collector.
    pub collection: Option<Collection>,
    /// New connections.
    pub connects: Option<Connects>,
    /// Criterion's benches.
    pub estimates: Vec<estimates::Row>,
    /// What could not be measured here, and why.
    pub missing: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// As Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cpus, kernel, load, commit } = &self.machine;
        writeln!(f, "# Forebay, bench `{}`\n", self.profile)?;
        writeln!(f, "{processor}, {cpus} CPUs, Linux {kernel}, commit {commit}, load {load} at the start,")?;
        writeln!(f, "{:.0} s of measuring.", self.seconds)?;
        if let Some(packets) = &self.packets {
            write_packets(f, packets)?;
        }
        if let Some(collection) = &self.collection {
            write_collection(f, collection)?;
        }
        if let Some(connects) = &self.connects {
            write_connects(f, connects)?;
        }
        if !self.estimates.is_empty() {
            write_estimates(f, &self.estimates)?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "\n## Not measured\n")?;
            for missing in &self.missing {
                writeln!(f, "- {missing}")?;
            }
        }
        Ok(())
    }
}

fn write_packets(f: &mut fmt::Formatter<'_>, packets: &Packets) -> fmt::Result {
    writeln!(f, "\n## Packets through the kernel's programs\n")?;
    writeln!(
        f,
        "ns per packet, medians of the quiet samples; conntrack and the floors' tables have room for {} entries.",
        packets.table_entries
    )?;
    writeln!(
        f,
        "Net is gross less the prelude. {} % of the calibration loops were quiet; NOISY rows had too few.\n",
        packets.quiet_percent
    )?;
    writeln!(f, "| program | | flows | gross | net | × L(n) | min | max | quiet |")?;
    writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for row in &packets.rows {
        let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let noisy = if row.trusted { "" } else { " NOISY" };
        let gross = &row.gross;
        writeln!(
            f,
            "| {} | {} | {} | {:.0} | {:.0} | {ratio} | {:.0} | {:.0} | {}/{}{noisy} |",
            row.name,
            row.family,
            row.flows,
            gross.median,
            row.net,
            gross.min,
            gross.max,
            gross.quiet,
            gross.samples
        )?;
    }
    let verified = packets.verified.iter().map(|(name, count)| {
        let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        format!("{name} {count}")
    });
    writeln!(f, "\nVerified instructions: {}.", verified.collect::<Vec<_>>().join(", "))
}

fn write_collection(f: &mut fmt::Formatter<'_>, collection: &Collection) -> fmt::Result {
    let Collection { entries, slices, scanned, p50, p99, longest, cpu_percent } = collection;
    writeln!(f, "\n## The collector, with {entries} flows that live\n")?;
    writeln!(f, "| slices | entries looked at | p50, µs | p99, µs | longest, µs | of one CPU |")?;
    writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
    writeln!(f, "| {slices} | {scanned} | {p50:.0} | {p99:.0} | {longest:.0} | {cpu_percent:.1} % |")
}

fn write_connects(f: &mut fmt::Formatter<'_>, connects: &Connects) -> fmt::Result {
    writeln!(f, "\n## New connection to the last of N services\n")?;
    writeln!(
        f,
        "TCP connect() across two veths and a balancer. iptables: {}. Forebay: {}.\n",
        connects.iptables.as_deref().unwrap_or("not there"),
        connects.attached.join("; ")
    )?;
    writeln!(f, "| services | way | p50, µs | p99, µs | connects | programmed in, ms |")?;
    writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
    for row in &connects.rows {
        let programmed = row.programmed.map(|time| format!("{time:.1}")).unwrap_or_default();
        writeln!(
            f,
            "| {} | {} | {:.1} | {:.1} | {} | {programmed} |",
            row.services, row.way, row.p50, row.p99, row.connects
        )?;
    }
    Ok(())
}

fn write_estimates(f: &mut fmt::Formatter<'_>, rows: &[estimates::Row]) -> fmt::Result {
    writeln!(f, "\n## On the host (criterion)\n")?;
    writeln!(f, "| benchmark | median | interval of the median | per element |")?;
    writeln!(f, "| --- | --- | --- | --- |")?;
    for row in rows {
        let each = row.elements.filter(|&elements| elements > 1).map(|n| time(row.median / n as f64));
        let [low, high] = row.interval.map(time);
        writeln!(
            f,
            "| {} | {} | {low} to {high} | {} |",
            row.name,
            time(row.median),
            each.unwrap_or_default()
        )?;
    }
    Ok(())
}

/// Nanoseconds in the unit that a person would choose.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_a_person_would_choose() {
        assert_eq!([12.34, 4_560.0, 78_900_000.0].map(time), ["12.3 ns", "4.56 µs", "78.90 ms"]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let report = Report {
            profile: "smoke",
            machine: Machine::look(),
            packets: None,
            collection: None,
            connects: None,
            estimates: Vec::new(),
            missing: vec!["packets: no toolchain".to_owned()],
            seconds: 1.0,
        };
        let text = report.to_string();
        assert!(text.ends_with("## Not measured\n\n- packets: no toolchain\n"), "{text}");
        assert!(serde_json::to_string(&report).unwrap().contains("\"kernel\""));
    }
}
