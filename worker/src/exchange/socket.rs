//! What the kernel is told about a data connection. Must not know what flows over it.

use holdfast_runtime::Stream;
use rustix::net::sockopt;
use std::io;
use std::time::Duration;

/// Sends small writes at once, and has the kernel give a connection up whose peer acknowledges nothing for `silence`:
/// neither data nor, when there is none, probes.
///
/// # Errors
/// As the system has it.
pub fn prepare(stream: &Stream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay()?;
    let Stream::Tcp(tcp) = stream else {
        return Ok(());
    };
    let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(tcp, millis)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    // The kernel counts in seconds here; once data is on its way, the timeout above is exact.
    let second = Duration::from_secs(1);
    sockopt::set_tcp_keepidle(tcp, (silence / 2).max(second))?;
    sockopt::set_tcp_keepintvl(tcp, (silence / 4).max(second))?;
    sockopt::set_tcp_keepcnt(tcp, 2)?;
    Ok(())
}
