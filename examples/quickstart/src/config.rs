//! The YAML that drives everything, and the controller that it drives.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use control_static::{Notice, StaticSource, StaticStatus};
use dataplane_core::{
    Controller,
    control::{Running, RunningSource},
    source::Precedence,
    tables::Store,
};
use dataplane_testkit::net::{AddressPlan, HostAddresses};

/// The port of the HTTP service.
pub const HTTP: u16 = 80;
/// The port of the UDP service.
pub const ECHO: u16 = 7;
/// The port that backends serve HTTP on.
pub const BACKEND_HTTP: u16 = 8080;
/// The port that backends serve UDP on.
pub const BACKEND_ECHO: u16 = 7007;

const PATIENCE: Duration = Duration::from_secs(5);

/// Where clients go, IPv4 first.
pub fn virtual_addresses(port: u16) -> [SocketAddr; 2] {
    AddressPlan::vip(0).with_port(port)
}

/// What the file says of a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves.
    Active,
    /// It keeps what it has.
    Draining,
    /// It is not in the file.
    Gone,
}

/// The file with the services.
pub struct Config {
    folder: tempfile::TempDir,
    backends: Vec<(HostAddresses, Role)>,
}

impl Config {
    /// Writes the file, every backend active.
    pub fn write(backends: impl IntoIterator<Item = HostAddresses>) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("forebay-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let config = Self { folder, backends: backends.into_iter().map(|b| (b, Role::Active)).collect() };
        config.save()?;
        Ok(config)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("services.yaml")
    }

    /// Edits the file: this backend has this role now.
    pub fn set(&mut self, backend: usize, role: Role) -> Result<()> {
        let (_, current) = self.backends.get_mut(backend).context("no such backend")?;
        *current = role;
        self.save()
    }

    /// What the file says.
    pub fn text(&self) -> String {
        let [v4, v6] = AddressPlan::vip(0).both();
        let service = |name: &str, ports: String, backend_port: u16| {
            let mut text =
                format!("  - name: {name}\n    addresses: [{v4}, \"{v6}\"]\n    {ports}\n    backends:\n");
            for (addresses, role) in &self.backends {
                for address in addresses.with_port(backend_port) {
                    match role {
                        Role::Active => text += &format!("      - \"{address}\"\n"),
                        Role::Draining => {
                            let (ip, port) = (address.ip(), address.port());
                            text +=
                                &format!("      - {{address: \"{ip}\", port: {port}, state: draining}}\n");
                        }
                        Role::Gone => {}
                    }
                }
            }
            text
        };
        let web = service("web", format!("port: {HTTP}"), BACKEND_HTTP);
        let echo = service("echo", format!("port: {ECHO}\n    protocol: udp"), BACKEND_ECHO);
        format!("services:\n{web}{echo}")
    }

    fn save(&self) -> Result<()> {
        // As editors do it: a new file takes the old one's place, so that nobody reads half of it.
        let draft = self.folder.path().join(".services.yaml.new");
        fs::write(&draft, self.text())
            .and_then(|()| fs::rename(&draft, self.path()))
            .context("cannot write the YAML file")
    }
}

/// A controller that follows the file.
pub struct Control {
    controller: Controller,
    status: StaticStatus,
    // Dropped in this order: the source first, then the thread that applies what it said.
    _source: RunningSource,
    _thread: Running,
}

impl Control {
    /// Follows the file into these tables, and waits until its services stand.
    pub fn follow(path: &Path, tables: Arc<dyn Store>) -> Result<Self> {
        let controller = Controller::new(tables)?;
        let thread = controller.spawn().context("cannot start the controller's thread")?;
        let source = StaticSource::new(path).on_notice(|notice| {
            if let Notice::Rejected(rejected) = notice {
                crate::output::complain(format_args!("the file was refused: {rejected}"));
            }
        });
        let status = source.status();
        let source = controller.run_source(Box::new(source), Precedence::new(0))?;
        let control = Self { controller, status, _source: source, _thread: thread };
        control.wait_for(1)?;
        Ok(control)
    }

    /// Waits until so many states of the file were applied, and the last one stands in the tables.
    pub fn wait_for(&self, generation: u64) -> Result<()> {
        let standing = self
            .status
            .wait_for(PATIENCE, |standing| standing.generation >= generation || standing.rejected.is_some())
            .ok_or_else(|| anyhow!("the file was not read within {PATIENCE:?}"))?;
        if let Some(rejected) = standing.rejected {
            anyhow::bail!("the file was refused: {rejected}");
        }
        let revision = standing.revision.context("a state was applied without a revision")?;
        self.controller
            .wait_applied(revision, PATIENCE)
            .context("the services did not come to stand in the tables")
    }
}
