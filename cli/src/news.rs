//! What happens to the processes of a local cluster, line by line, on its way from their supervisor to whoever shows it.

use tokio::sync::broadcast::{Receiver, error};

/// Where lines come from; the oldest are passed over if nobody takes them.
pub type News = Receiver<String>;

/// The next line; never, if there can be none.
pub async fn next(news: &mut Option<News>) -> String {
    while let Some(lines) = news {
        match lines.recv().await {
            Ok(text) => return text,
            Err(error::RecvError::Lagged(_)) => {}
            Err(error::RecvError::Closed) => *news = None,
        }
    }
    std::future::pending().await
}

/// The lines that wait.
pub fn waiting(news: &mut Option<News>) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(lines) = news {
        match lines.try_recv() {
            Ok(text) => texts.push(text),
            Err(error::TryRecvError::Lagged(_)) => {}
            Err(error::TryRecvError::Empty) => break,
            Err(error::TryRecvError::Closed) => *news = None,
        }
    }
    texts
}
