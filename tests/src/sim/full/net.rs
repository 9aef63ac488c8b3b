//! The simulated network as the product's processes see it: turmoil's sockets, with every byte in the trace.

use super::trace;
use holdfast_runtime::{Accept, BoxFuture, Io, Machine};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// All hosts: turmoil knows which one calls.
#[derive(Debug, Clone, Copy)]
pub struct Network;

impl Machine for Network {
    fn listen(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Accept>>> {
        Box::pin(async move {
            // A simulated host has one address, whatever it is told to bind.
            let port = port_of(&addr)?;
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            let port = listener.local_addr()?.port();
            Ok(Box::new(Listening { listener, port }) as Box<dyn Accept>)
        })
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let to: SocketAddr = addr.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("'{addr}' is no address"))
            })?;
            let connected = TcpStream::connect(to).await;
            match &connected {
                Ok(_) => trace::count("connections", 1),
                Err(error) => {
                    trace::count("connections refused", 1);
                    trace::event(&format!("no connection to {to}: {}", error.kind()));
                }
            }
            Traced::boxed(connected?)
        })
    }
}

fn port_of(addr: &str) -> io::Result<u16> {
    let port = addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("'{addr}' has no port")))
}

struct Listening {
    listener: TcpListener,
    port: u16,
}

impl Accept for Listening {
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            Traced::boxed(stream)
        })
    }

    fn port(&self) -> u16 {
        self.port
    }
}

/// A connection whose bytes are traced.
struct Traced {
    stream: TcpStream,
    local: u64,
    remote: u64,
}

impl Traced {
    fn boxed(stream: TcpStream) -> io::Result<Box<dyn Io>> {
        let (local, remote) = (number(stream.local_addr()?), number(stream.peer_addr()?));
        Ok(Box::new(Self {
            stream,
            local,
            remote,
        }))
    }
}

/// Address and port in one number.
fn number(addr: SocketAddr) -> u64 {
    let ip = match addr.ip() {
        std::net::IpAddr::V4(ip) => u64::from(u32::from(ip)),
        std::net::IpAddr::V6(ip) => u64::from(ip.segments()[7]),
    };
    (ip << 16) | u64::from(addr.port())
}

impl AsyncRead for Traced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &polled {
            trace::bytes("reads", self.remote, self.local, &buf.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Traced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            trace::bytes("writes", self.local, self.remote, &buf[..*written]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
