//! Writes the seeds of the corpora: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`, from the root of the
//! repository. Those of `yaml` are written by hand.

use std::{error::Error, fs, net::SocketAddr, path::Path};

use dataplane_core::abi::ABI_VERSION;
use dataplane_testkit::frames::{Extension, Frame, Rng, Transport, flags};
use forebay_fuzz::frame::{BACKENDS, CLIENTS, FRONTENDS, MAC, MASQUERADED, OWN, PORT};

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
        let own = SocketAddr::new(OWN[0][family].parse()?, PORT);
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
        // What has an address of this host, both ways; and services that remember, and that have tables.
        for frontend in &FRONTENDS[family][3..] {
            let to: SocketAddr = frontend.parse()?;
            add(0x00, plain(Frame::tcp(stranger, to, flags::SYN)));
            add(0x90, plain(Frame::udp(client, to)));
        }
        let masqueraded = FRONTENDS[family][MASQUERADED[0]].parse()?;
        add(0x04, plain(Frame::tcp(client, masqueraded, flags::ACK)));
        add(0x05, plain(Frame::tcp(backend, own, flags::ACK)));
        add(0x01, plain(Frame::udp(backend, own)));
        add(0x00, Frame::tcp(stranger, masqueraded, flags::SYN).payload(&[7; 1600]));
        // A ping, and a port that nobody serves.
        let ping = if family == 0 { 8 } else { 128 };
        add(0x00, plain(Frame::icmp(client.ip(), web.ip(), ping, 0, 7)));
        add(0x00, plain(Frame::tcp(stranger, SocketAddr::new(web.ip(), 81), flags::SYN)));
        // Errors about what was translated, either way, whole and cut short.
        let (sent, answered) = (Frame::tcp(client, backend, flags::ACK), Frame::udp(names, client));
        let errors = if family == 0 { [3, 11, 12] } else { [2, 3, 4] };
        let (ours, theirs) =
            (Frame::tcp(own, backend, flags::ACK), Frame::tcp(masqueraded, client, flags::ACK));
        let quotes = [(0x01, sent), (0x00, answered), (0x01, ours), (0x00, theirs)];
        for (i, (choice, quoted)) in quotes.into_iter().enumerate() {
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

/// Any bytes are operations; and some that come to what chance takes long to find.
fn sequences() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(20_261_121);
    let mut seeds: Vec<_> = (0..24).map(|i| rng.bytes(60 << (i / 5))).collect();
    let (tcp, udp) = (0, 4);
    let two = [1, 1, 0, 0, 0];
    let one = [1, 0, 0, 0, 0];
    let local = [0, 0, 0, 0, 1];
    for v6 in [0, 1] {
        let family = v6 << 7;
        let (web, names) = (tcp | family, udp | family);
        // Ports run out: confirmed connections keep theirs, half-open ones don't, and datagrams' for two seconds.
        let mut confirmed = vec![FOUR_PORTS];
        confirmed.extend(upsert(v6, 0x11, one, 1, 0));
        let (mut open, mut datagrams) = (confirmed.clone(), confirmed.clone());
        for i in 0..6 {
            confirmed.extend([client(i, web, SYN), answer(i, SYN_ACK), client(i, web, ACK)].concat());
            open.extend(client(i, web, SYN));
            datagrams.extend(client(i, names, SYN));
        }
        confirmed.extend([answer(0, FIN), client(0, web, FIN), client(6, web, SYN)].concat());
        open.extend((0..6).flat_map(|i| answer(i, SYN_ACK)));
        datagrams.extend([pass(1), pass(1), client(6, names, SYN), answer(1, SYN), answer(6, SYN)].concat());
        datagrams.extend([client(7, names, SYN), pass(4), client(8, names, SYN)].concat());
        // One's own port stays where the service changes its mind, and its backend drains, and not where that goes.
        let mut changes = vec![FOUR_PORTS];
        for (source, backends) in [(1, two), (0, two), (2, [3, 1, 0, 0, 0]), (2, [0, 1, 0, 0, 1]), (2, local)]
        {
            changes.extend(upsert(v6, 0x11, backends, source, 0));
            for i in 0..2 {
                changes.extend([client(i, web, SYN), client(i, names, SYN)].concat());
                changes.extend([answer(2 * i, SYN_ACK), answer(2 * i + 1, ACK)].concat());
                changes.extend([client(i, web, ACK), client(i, names, ACK)].concat());
            }
        }
        seeds.extend([confirmed, open, datagrams, changes]);
        // A client of many ports comes again: soon, late, with its backend draining, back, gone; chosen at random and by Maglev.
        for service in [v6, 2 + 3 * v6] {
            for (source, memory) in [(0, 1), (1, 2)] {
                let mut returns = vec![1];
                let mut ports = (0..4).map(|port| port << 2).cycle();
                for backends in [two, [3, 1, 1, 0, 0], [1, 2, 1, 0, 1], [0, 1, 1, 1, 1]] {
                    returns.extend(upsert(service, 0x33, backends, source, memory));
                    for span in [0, 1, 2, 3] {
                        let port = ports.next().unwrap_or(0);
                        returns.extend([client(port, web, SYN), client(port, names, SYN)].concat());
                        returns.extend([client(port, web | 1, SYN), pass(span), answer(port, RST)].concat());
                    }
                }
                seeds.push(returns);
            }
        }
    }
    seeds
}

const FOUR_PORTS: u8 = 0;
/// Places in the fuzz target's list of flags.
const SYN: u8 = 0;
const SYN_ACK: u8 = 1;
const ACK: u8 = 2;
const FIN: u8 = 4;
const RST: u8 = 5;

/// The derived choice of one of eight operations takes four bytes.
fn operation(number: u32, rest: &[u8]) -> Vec<u8> {
    [&(number << 29).to_le_bytes()[..], rest].concat()
}

fn upsert(service: u8, frontends: u8, backends: [u8; 5], source: u8, memory: u8) -> Vec<u8> {
    operation(0, &[&[0, service, frontends][..], &backends, &[source, memory]].concat())
}

fn pass(span: u8) -> Vec<u8> {
    operation(3, &[span])
}

fn client(client: u8, frontend: u8, flags: u8) -> Vec<u8> {
    operation(4, &[client, frontend, flags, 0, client & 1, client.wrapping_mul(91)])
}

fn answer(which: u8, flags: u8) -> Vec<u8> {
    operation(5, &[which, flags])
}

/// Any bytes are wishes and damage.
fn damages() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(20_261_122);
    (0..16).map(|i| rng.bytes(40 + 12 * i)).collect()
}
