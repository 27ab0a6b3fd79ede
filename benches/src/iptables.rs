//! The chains that kube-proxy makes of services, in its mode `iptables`: a rule for each service in one chain, which
//! sends to the service's own, and from there at random to one for each backend.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dataplane_testkit::net::Namespace;

use crate::catalogue::{Catalogue, frontend};

/// The rules of the table `nat`, as `iptables-restore` reads them.
pub fn rules(catalogue: &Catalogue) -> String {
    let mut chains = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    let mut rules = String::from(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for number in 0..catalogue.services {
        // Names are hashes of 16 characters there.
        let (service, address) = (format!("KUBE-SVC-{number:016X}"), frontend(number));
        let (ip, port) = (address.ip(), address.port());
        push(&mut chains, format_args!(":{service} - [0:0]\n"));
        push(
            &mut rules,
            format_args!(
                "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"bench/service-{number} cluster IP\" \
                 -m tcp --dport {port} -j {service}\n"
            ),
        );
        let backends = catalogue.backends(number);
        for (place, backend) in backends.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{number:012X}{place:04X}");
            push(&mut chains, format_args!(":{endpoint} - [0:0]\n"));
            let left = backends.len() - place;
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            push(
                &mut rules,
                format_args!(
                    "-A {service} -m comment --comment \"bench/service-{number} -> {backend}\" {chance}-j {endpoint}\n\
                     -A {endpoint} -s {}/32 -m comment --comment \"bench/service-{number}\" -j KUBE-MARK-MASQ\n\
                     -A {endpoint} -p tcp -m comment --comment \"bench/service-{number}\" -m tcp -j DNAT \
                     --to-destination {backend}\n",
                    backend.ip()
                ),
            );
        }
    }
    chains + &rules + "COMMIT\n"
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    text.write_fmt(arguments).unwrap_or(());
}

/// The program that loads the rules.
#[derive(Clone, Debug)]
pub struct Restore {
    program: PathBuf,
    /// Its name and version, as it tells them.
    pub version: String,
}

impl Restore {
    /// Finds it: the variant that needs no nftables, else the other one.
    ///
    /// # Errors
    /// Where there is neither.
    pub fn find() -> Result<Self> {
        for name in ["iptables-legacy-restore", "iptables-restore"] {
            for folder in ["/usr/sbin", "/sbin", "/usr/bin"] {
                let program = Path::new(folder).join(name);
                if let Ok(output) = Command::new(&program).arg("--version").output() {
                    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                    return Ok(Self { program, version });
                }
            }
        }
        bail!("iptables-restore is missing (package iptables; `cargo xtask setup` installs it)")
    }

    /// Replaces the table `nat` of a namespace, and says how long it took.
    ///
    /// # Errors
    /// With what it complains about.
    pub fn load(&self, namespace: &Namespace, rules: &str) -> Result<Duration> {
        let start = Instant::now();
        let output = namespace.run(|| -> Result<_> {
            let mut child = Command::new(&self.program)
                .arg("--wait")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {}", self.program.display()))?;
            let written = child.stdin.take().context("no pipe")?.write_all(rules.as_bytes());
            let output = child.wait_with_output()?;
            // Where it gave up, what it says is worth more than the broken pipe.
            if output.status.success() {
                written?;
            }
            Ok(output)
        })?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", self.program.display(), output.status, complaint.trim());
        }
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_chains() {
        let rules = rules(&Catalogue::new(2));
        let count = |text: &str| rules.matches(text).count();
        assert_eq!(count("\n:KUBE-SVC-"), 2);
        assert_eq!(count("\n:KUBE-SEP-"), 6);
        assert_eq!(count("-j KUBE-SVC-"), 2);
        assert_eq!(count("-j KUBE-SEP-"), 6);
        assert_eq!(count("--to-destination 10.128.0.4:8080\n"), 1);
        assert_eq!(count("--probability 0.3333333333 "), 2);
        assert_eq!(count("--probability 0.5000000000 "), 2);
        assert!(rules.starts_with("*nat\n") && rules.ends_with("\nCOMMIT\n"));
        // iptables refuses chains of 29 characters and more.
        let chains = rules.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        assert!(chains.clone().count() == 10 && chains.clone().all(|name| name.len() < 29));
    }
}
