//! Listening, accepting, connecting.

use crate::simulated;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A simulated listener.
pub trait Accept: Send + Sync {
    /// The next connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>>;
    /// The port.
    fn port(&self) -> u16;
}

/// A simulated connection.
pub struct Pipe(pub(crate) Box<dyn Io>);

/// A connection.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// In a simulator.
    Simulated(Pipe),
}

/// A listener that belongs to no runtime yet.
pub enum Bound {
    /// A bound socket.
    Tcp(std::net::TcpListener),
    /// In a simulator.
    Simulated(Box<dyn Accept>),
}

/// A listener.
pub enum Listener {
    /// A socket of the current runtime.
    Tcp(TcpListener),
    /// In a simulator.
    Simulated(Box<dyn Accept>),
}

impl From<std::net::TcpListener> for Bound {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Bound {
    /// A listener on the current runtime.
    ///
    /// # Errors
    /// As the system has it.
    pub fn into_listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Listener::Tcp)
            }
            Self::Simulated(listener) => Ok(Listener::Simulated(listener)),
        }
    }
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// As the system has it; another try may succeed.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Simulated(listener) => listener.accept().await.map(|io| Stream::Simulated(Pipe(io))),
        }
    }

    /// The port.
    ///
    /// # Errors
    /// As the system has it.
    pub fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|addr| addr.port()),
            Self::Simulated(listener) => Ok(listener.port()),
        }
    }
}

/// Listens at `host:port`; port 0 picks a free one.
///
/// # Errors
/// As the system has it.
pub async fn listen(addr: &str) -> io::Result<Listener> {
    match simulated() {
        Some(machine) => machine.listen(addr.to_owned()).await.map(Listener::Simulated),
        None => TcpListener::bind(addr).await.map(Listener::Tcp),
    }
}

/// Connects to `host:port`. The caller sets the deadline.
///
/// # Errors
/// As the system has it.
pub async fn connect(addr: &str) -> io::Result<Stream> {
    match simulated() {
        Some(machine) => {
            let io = machine.connect(addr.to_owned()).await?;
            Ok(Stream::Simulated(Pipe(io)))
        }
        None => TcpStream::connect(addr).await.map(Stream::Tcp),
    }
}

impl Stream {
    /// Small writes go out at once.
    ///
    /// # Errors
    /// As the system has it.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Simulated(_) => Ok(()),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Simulated(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Simulated(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Simulated(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Simulated(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

/// As [`listen`], for a listener that is handed on; `None` outside of simulators, where the caller binds.
pub async fn bind_simulated(addr: &str) -> Option<io::Result<Bound>> {
    let machine = simulated()?;
    Some(machine.listen(addr.to_owned()).await.map(Bound::Simulated))
}
