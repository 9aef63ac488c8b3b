//! gRPC over the process's sockets.

use crate::net::{Accept, BoxFuture, Pipe};
use crate::simulated;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

/// A channel that dials when it is first used.
#[must_use]
pub fn channel(endpoint: &Endpoint) -> Channel {
    match simulated() {
        Some(_) => endpoint.connect_with_connector_lazy(Dial),
        None => endpoint.connect_lazy(),
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Dials over the simulated network.
#[derive(Clone)]
struct Dial;

impl Service<Uri> for Dial {
    type Response = TokioIo<Pipe>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Pipe>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let addr = uri.authority().map(ToString::to_string).unwrap_or_default();
            let machine = simulated().ok_or_else(|| io::Error::other("not in a simulator"))?;
            machine.connect(addr).await.map(|io| TokioIo::new(Pipe(io)))
        })
    }
}

/// The connections of a simulated listener, for a gRPC server.
pub fn incoming(listener: Box<dyn Accept>) -> impl Stream<Item = io::Result<Pipe>> + Send {
    Incoming {
        accepting: None,
        listener: listener.into(),
    }
}

struct Incoming {
    accepting: Option<BoxFuture<'static, io::Result<Pipe>>>,
    listener: std::sync::Arc<dyn Accept>,
}

impl Stream for Incoming {
    type Item = io::Result<Pipe>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut accepting = self.accepting.take().unwrap_or_else(|| {
            let listener = self.listener.clone();
            Box::pin(async move { listener.accept().await.map(Pipe) })
        });
        match accepting.as_mut().poll(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => {
                self.accepting = Some(accepting);
                Poll::Pending
            }
        }
    }
}
