//! What a process asks of its machine: sockets, and threads for work that blocks. A process that installs nothing gets
//! tokio's sockets and threads, without a detour. A simulator installs a [`Machine`] of its own before anything else
//! runs: then every connection goes over its network, and nothing leaves the thread that it runs on.
//!
//! Must not know what is sent, nor what the work is.

mod blocking;
mod grpc;
mod net;

pub use blocking::{Panicked, background, blocking, blocking_on};
pub use grpc::{channel, incoming};
pub use net::{Accept, Bound, BoxFuture, Io, Listener, Pipe, Stream, bind_simulated, connect, listen};

use std::sync::{Arc, OnceLock};

/// A simulated machine, or many: it knows on behalf of which one it is called.
pub trait Machine: Send + Sync {
    /// Listens at `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// If the port is taken.
    fn listen(&self, addr: String) -> BoxFuture<'static, std::io::Result<Box<dyn Accept>>>;

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// If nobody listens there, or the network does not let it through.
    fn connect(&self, addr: String) -> BoxFuture<'static, std::io::Result<Box<dyn Io>>>;
}

static INSTALLED: OnceLock<Arc<dyn Machine>> = OnceLock::new();

/// Replaces sockets and threads for the whole process, once. Returns false if that was done before.
#[doc(hidden)]
pub fn install(machine: Arc<dyn Machine>) -> bool {
    INSTALLED.set(machine).is_ok()
}

/// The machine that was installed.
pub(crate) fn simulated() -> Option<&'static Arc<dyn Machine>> {
    INSTALLED.get()
}

/// Whether this process runs in a simulator: then all of it stays on the thread and the runtime that it was started on.
#[doc(hidden)]
#[must_use]
pub fn is_simulated() -> bool {
    INSTALLED.get().is_some()
}
