//! Writes the seeds of the corpora: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`, from the root of the
//! repository. Those of `yaml` are written by hand.

use std::{error::Error, fs, net::SocketAddr, path::Path};

use dataplane_core::abi::ABI_VERSION;
use dataplane_testkit::frames::{Extension, Frame, Rng, Transport, flags};
use forebay_fuzz::frame::{BACKENDS, CLIENTS, FRONTENDS, MAC};

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in
        [("events", events()), ("frame", frames()?), ("pins", damages()), ("sequence", sequences())]
    {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (i, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{i:02}")), seed)?;
        }
        println!("{}: {} seeds", folder.display(), seeds.len());
    }
    Ok(())
}

/// Where it arrives and when, in the first byte; then the frame.
fn frames() -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut seeds = Vec::new();
    for family in 0..2 {
        let client: SocketAddr = SocketAddr::new(CLIENTS[family].parse()?, 40_000);
        let stranger = SocketAddr::new(CLIENTS[family].parse()?, 50_000);
        let web: SocketAddr = FRONTENDS[family][0].parse()?;
        let names: SocketAddr = FRONTENDS[family][1].parse()?;
        let empty: SocketAddr = FRONTENDS[family][2].parse()?;
        let backend: SocketAddr = BACKENDS[family][0].parse()?;
        let plain = |frame: Frame| frame.payload(b"seed");
        let mut add = |choice: u8, frame: Frame| {
            let mut seed = vec![choice];
            seed.extend(frame.link(MAC, MAC).build());
            seeds.push(seed);
        };
        // New and known, both protocols, both ways.
        add(0x00, plain(Frame::tcp(stranger, web, flags::SYN)));
        add(0x50, plain(Frame::udp(stranger, names)));
        add(0x00, plain(Frame::tcp(client, web, flags::ACK)));
        add(0x04, plain(Frame::tcp(client, web, flags::FIN | flags::ACK)));
        add(0x08, plain(Frame::udp(client, names)));
        add(0x01, plain(Frame::tcp(backend, client, flags::RST)));
        add(0x0d, plain(Frame::udp(backend, client)));
        add(0x00, plain(Frame::tcp(stranger, empty, flags::SYN)));
        // Out of the ordinary.
        let mut unsummed = plain(Frame::udp(stranger, names));
        unsummed.transport = Transport::Udp { checksum: false };
        add(0x20, unsummed);
        let mut options = plain(Frame::tcp(client, web, flags::ACK));
        options.transport = Transport::Tcp { flags: flags::ACK, options: 12 };
        (options.ip_options, options.hop_limit) = (2, 1);
        options.extensions = vec![
            Extension::HopByHop(0),
            Extension::Routing(0),
            Extension::Authentication,
            Extension::Fragment(0),
        ];
        add(0x00, options.clone());
        options.hop_limit = 64;
        options.tags = vec![(0x88a8, 7), (0x8100, 5)];
        options.extensions.push(Extension::Destination(3));
        add(0x40, options);
        let mut fragment = plain(Frame::tcp(client, web, flags::ACK));
        (fragment.fragment, fragment.extensions) = (0x2000, vec![Extension::Fragment(1)]);
        add(0x00, fragment);
        add(0x30, Frame::udp(client, names).payload(&[7; 1300]));
        add(0x03, plain(Frame::tcp(stranger, web, flags::SYN)));
        add(0x02, plain(Frame::other(stranger, web, 132)));
        // Errors about what was translated, either way, whole and cut short.
        let (sent, answered) = (Frame::tcp(client, backend, flags::ACK), Frame::udp(names, client));
        let errors = if family == 0 { [3, 11, 12] } else { [2, 3, 4] };
        for (i, (choice, quoted)) in [(0x01, sent), (0x00, answered)].into_iter().enumerate() {
            for (kind, cut) in errors.into_iter().zip([0, 8, 21]) {
                let mut quote = plain(quoted.clone()).packet();
                quote.truncate(quote.len() - cut);
                let (from, to) = (quoted.destination.ip(), quoted.source.ip());
                add(choice, Frame::icmp(from, to, kind, i as u8, 1300).payload(&quote));
            }
        }
    }
    Ok(seeds)
}

/// Records of each kind, and some that are none: cut off, of no kind, of another version.
fn events() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for family in [4, 6] {
        for (kind, hook, reason, protocol, flags) in [
            (1, 1, 35, 6, 0),
            (1, 0, 26, 17, 0),
            (1, 2, 39, 58, 0),
            (2, 0, 0, 17, 3),
            (2, 1, 0, 6, 0),
            (3, 0xff, 1, 6, 5),
            (3, 0xff, 7, 17, 2),
            (9, 0, 0, 0, 0),
        ] {
            let length = match (kind, family) {
                (1, 4) => 40,
                (_, 4) | (1, _) => 64,
                _ => 112,
            };
            let mut seed = vec![0; length];
            seed[..8].copy_from_slice(&1_000_000_000_123u64.to_ne_bytes());
            seed[8..10].copy_from_slice(&(ABI_VERSION as u16).to_ne_bytes());
            seed[10..16].copy_from_slice(&[kind, family, hook, reason, protocol, flags]);
            seeds.push(seed);
        }
    }
    seeds.extend([vec![], vec![0; 15], vec![0xff; 64]]);
    seeds
}

/// Any bytes are operations.
fn sequences() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(20_261_121);
    (0..24).map(|i| rng.bytes(60 << (i / 5))).collect()
}

/// Any bytes are wishes and damage.
fn damages() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(20_261_122);
    (0..16).map(|i| rng.bytes(40 + 12 * i)).collect()
}
