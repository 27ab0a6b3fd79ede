//! Network namespaces that live as long as somebody in this process holds them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rtnetlink::Handle;

use super::netlink::{self, Job, Netlink};
use super::{NetError, sys};

/// The kernel answers a netlink request within microseconds; after this something is badly wrong.
const NETLINK_TIMEOUT: Duration = Duration::from_secs(10);

/// A network namespace without a name in the file system.
///
/// It is held by a descriptor and a thread of this process: when the last clone is dropped, or the process ends in
/// whatever way, the kernel takes down the namespace and every link that has an end in it. The label is
/// only for messages. Clones are the same namespace.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

impl Namespace {
    /// Makes a namespace: loopback is up, IPv6 addresses are usable at once (no duplicate address detection), and the
    /// kernel sends no router solicitations and as few group reports as it can, so that what is
    /// counted on a link is the test's own traffic. Reverse path filters are off. Costs a few milliseconds.
    ///
    /// # Errors
    /// [`NetError::Namespace`] without CAP_SYS_ADMIN; [`super::capabilities`] tells beforehand.
    pub fn new(label: impl Into<String>) -> Result<Self, NetError> {
        let namespace = Self::bare(label)?;
        namespace.quieten()?;
        namespace.interface("lo")?.set_up()?;
        Ok(namespace)
    }

    /// A namespace as the kernel makes it: loopback down, its settings untouched.
    pub(super) fn bare(label: impl Into<String>) -> Result<Self, NetError> {
        Self::start(label.into(), Origin::New)
    }

    /// The namespace that the calling thread is in, its settings untouched: outside [`Namespace::run`] that is the host's,
    /// where a link that is made stays visible until its other end goes.
    pub fn current() -> Result<Self, NetError> {
        let label = "current";
        let fd = sys::current_network().map_err(|source| NetError::Namespace {
            operation: "open /proc/thread-self/ns/net",
            namespace: label.into(),
            source,
        })?;
        Self::from_fd(label, fd)
    }

    /// A namespace that somebody else made, its settings untouched.
    pub fn from_fd(label: impl Into<String>, fd: OwnedFd) -> Result<Self, NetError> {
        Self::start(label.into(), Origin::Existing(fd))
    }

    /// The label it was made with.
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// The descriptor, for others to enter it or to move links into it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    /// Runs a closure on a thread inside the namespace and returns its result. Sockets, BPF links and child
    /// processes that it makes belong to the namespace. It may borrow from the caller, and calls may be
    /// nested. Costs some 50 µs for the thread.
    ///
    /// # Panics
    /// With the closure's panic; and where the thread can't enter the namespace any more (privileges dropped).
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let name = thread::current().name().unwrap_or("run").to_owned();
        let outcome = thread::scope(|scope| {
            // The caller's name, so that a panic inside says which test it was.
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, || {
                sys::enter_network(self.fd())
                    .unwrap_or_else(|error| panic!("enter network namespace {}: {error}", self.label()));
                closure()
            });
            thread.unwrap_or_else(|error| panic!("start a thread: {error}")).join()
        });
        outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts a further thread inside the namespace. Whoever calls ends it.
    ///
    /// # Errors
    /// [`NetError::Namespace`] where the thread can't be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        closure: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, NetError> {
        let thread = thread::Builder::new().name(self.label().to_owned());
        // A thread begins in the namespace of the thread that starts it.
        self.run(|| thread.spawn(closure)).map_err(|source| NetError::Namespace {
            operation: "start a thread",
            namespace: self.label().to_owned(),
            source,
        })
    }

    /// The names of its interfaces.
    pub fn interfaces(&self) -> Result<Vec<String>, NetError> {
        self.netlink("list interfaces", async move |handle| netlink::interface_names(&handle).await)
    }

    /// Runs netlink requests on the namespace's own thread.
    pub(super) fn netlink<T: Send + 'static>(
        &self,
        operation: impl Into<String>,
        request: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send + 'static,
    ) -> Result<T, NetError> {
        let (answer_tx, answer_rx) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |netlink: &mut Netlink| {
            // The caller may have given up waiting; then nobody wants the answer.
            answer_tx.send(netlink.request(request)).ok();
        });
        let gone = || io::Error::other("the namespace's thread has ended");
        let answer = match &self.inner.jobs {
            Some(jobs) if jobs.send(job).is_ok() => match answer_rx.recv_timeout(NETLINK_TIMEOUT) {
                Ok(answer) => answer,
                Err(mpsc::RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
                Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
            },
            _ => Err(gone()),
        };
        answer.map_err(|source| NetError::Netlink {
            operation: operation.into(),
            namespace: self.label().to_owned(),
            source,
        })
    }

    fn start(label: String, origin: Origin) -> Result<Self, NetError> {
        let (ready_tx, ready_rx) = mpsc::sync_channel(1);
        let (jobs_tx, jobs_rx) = mpsc::channel::<Job>();
        let worker = thread::Builder::new().name(format!("netns {label}")).spawn(move || {
            let (fd, mut netlink) = match prepare(origin) {
                Ok(ready) => ready,
                Err(failed) => {
                    ready_tx.send(Err(failed)).ok();
                    return;
                }
            };
            if ready_tx.send(Ok(fd)).is_err() {
                return;
            }
            while let Ok(job) = jobs_rx.recv() {
                job(&mut netlink);
            }
        });
        let failure = |operation, source| NetError::Namespace { operation, namespace: label.clone(), source };
        let worker = worker.map_err(|source| failure("start a thread", source))?;
        let fd = match ready_rx.recv() {
            Ok(Ok(fd)) => fd,
            Ok(Err((operation, source))) => return Err(failure(operation, source)),
            Err(_) => return Err(failure("start its thread", io::Error::other("the thread panicked"))),
        };
        Ok(Self { inner: Arc::new(Inner { label, fd, jobs: Some(jobs_tx), worker: Some(worker) }) })
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("label", &self.label()).field("fd", &self.inner.fd).finish()
    }
}

enum Origin {
    New,
    Existing(OwnedFd),
}

fn prepare(origin: Origin) -> Result<(OwnedFd, Netlink), (&'static str, io::Error)> {
    let fd = match origin {
        Origin::New => {
            sys::unshare_network().map_err(|error| ("unshare(CLONE_NEWNET)", error))?;
            sys::current_network().map_err(|error| ("open /proc/thread-self/ns/net", error))?
        }
        Origin::Existing(fd) => {
            sys::enter_network(fd.as_fd()).map_err(|error| ("setns(CLONE_NEWNET)", error))?;
            fd
        }
    };
    Ok((fd, Netlink::open().map_err(|error| ("open a netlink socket", error))?))
}

struct Inner {
    label: String,
    fd: OwnedFd,
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    worker: Option<thread::JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the channel ends the worker.
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A panic in the worker has already reached the one whose request it was.
            worker.join().ok();
        }
    }
}
