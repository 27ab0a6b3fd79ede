//! Documents: they never panic, and what parses says the same again when it is written anew.

use std::fmt::Write as _;

use dataplane_core::model::{Affinity, BackendState, Choice, Locality, Masquerade, Service};

/// Reads bytes as a document and checks what must hold.
///
/// # Panics
/// Where something does not hold.
pub fn read(bytes: &[u8]) {
    let picture = match control_static::parse_bytes(bytes, "fuzz.yaml") {
        Ok(picture) => picture,
        Err(errors) => {
            assert!(errors.iter().next().is_some(), "refused without a reason");
            for error in errors.iter() {
                assert!(error.to_string().starts_with("fuzz.yaml"), "{error}");
            }
            assert!(!errors.to_string().is_empty());
            return;
        }
    };
    assert_eq!(picture.places().count(), picture.services().len());
    for service in picture.services() {
        let again = Service::builder(service.name().as_str())
            .frontends(service.frontends().iter().copied())
            .backends(service.backends().iter().copied())
            .choice(service.choice())
            .masquerade(service.masquerade())
            .affinity(service.affinity())
            .build();
        assert_eq!(again.as_ref(), Ok(service), "the model itself refuses it");
    }
    let written = write(picture.services());
    match control_static::parse(&written, "again.yaml") {
        Ok(again) => assert_eq!(again.services(), picture.services(), "{written}"),
        Err(errors) => panic!("{errors}\n{written}"),
    }
}

/// Writes services in the format's long forms.
fn write(services: &[Service]) -> String {
    let mut text = String::from("services:");
    if services.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    for service in services {
        // A service comes of each address with each port.
        let (mut addresses, mut ports) = (Vec::new(), Vec::new());
        for frontend in service.frontends() {
            if !addresses.contains(&frontend.address()) {
                addresses.push(frontend.address());
            }
            let port = (frontend.port(), frontend.protocol());
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        line(&mut text, format_args!("- name: \"{}\"", service.name()));
        line(&mut text, format_args!("  addresses:"));
        for address in addresses {
            line(&mut text, format_args!("  - \"{address}\""));
        }
        line(&mut text, format_args!("  ports:"));
        for (port, protocol) in ports {
            line(&mut text, format_args!("  - {{port: {port}, protocol: {protocol}}}"));
        }
        match service.choice() {
            Choice::Maglev(size) => {
                line(&mut text, format_args!("  choice:\n    maglev: {}", size.get()));
            }
            _ => line(&mut text, format_args!("  choice: random")),
        }
        let masquerade = match service.masquerade() {
            Masquerade::Always => "always",
            Masquerade::Never => "never",
            _ => "auto",
        };
        line(&mut text, format_args!("  masquerade: {masquerade}"));
        match service.affinity() {
            Affinity::ClientIp { timeout } => {
                line(&mut text, format_args!("  affinity:\n    client-ip: {}", timeout.seconds()));
            }
            _ => line(&mut text, format_args!("  affinity: none")),
        }
        let none = if service.backends().is_empty() { " []" } else { "" };
        line(&mut text, format_args!("  backends:{none}"));
        for backend in service.backends() {
            let address = backend.socket_address();
            let state = if backend.state() == BackendState::Draining { "draining" } else { "active" };
            let locality = if backend.locality() == Locality::Local { "local" } else { "remote" };
            line(
                &mut text,
                format_args!(
                    "  - {{address: \"{}\", port: {}, weight: {}, state: {state}, locality: {locality}}}",
                    address.ip(),
                    address.port(),
                    backend.weight().get()
                ),
            );
        }
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a string takes everything");
}
