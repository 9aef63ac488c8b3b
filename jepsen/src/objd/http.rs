//! S3's requests and answers. Whatever is not used by the product is answered with 501.

use super::faults::Fate;
use super::objects::{Listing, Object, Wanted};
use super::{Server, text};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::net::TcpStream;

/// Largest body.
const BODY_MAX: usize = 64 * 1024 * 1024;
/// Longest that a request hangs.
const HANG: Duration = Duration::from_secs(120);
/// Keys of a listing's part.
const KEYS: usize = 1000;

type Answer = Response<Full<Bytes>>;

/// Serves one connection to its end.
pub(super) async fn connection(stream: TcpStream, from: SocketAddr, server: Arc<Server>) {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { one(request, from, &server).await }
    });
    // An error means that the connection broke, often because a fault wanted it to.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A request, as far as it matters.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

impl Asked {
    fn path(&self) -> String {
        format!("{}/{}", self.bucket, self.key)
    }

    fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn lists(&self) -> bool {
        self.method == Method::GET && self.key.is_empty()
    }

    fn changes(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }
}

async fn one(request: Request<Incoming>, from: SocketAddr, server: &Server) -> io::Result<Answer> {
    let received = crate::world::monotonic_ns();
    let asked = read(request).await?;
    let (fate, healed) = {
        let mut faults = server.faults();
        (faults.fate(asked.changes(), asked.lists()), faults.healed())
    };
    let answer = meet(&asked, &fate, healed, server).await;
    let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
    let mut line = serde_json::json!({
        "received": received, "answered": crate::world::monotonic_ns(), "from": from.ip().to_string(),
        "method": asked.method.as_str(), "path": asked.path(), "size": asked.body.len(), "status": status,
    });
    if !fate.met.is_empty() {
        line["fault"] = fate.met.join(",").into();
    }
    server.write(&line);
    answer
}

async fn meet(asked: &Asked, fate: &Fate, healed: u64, server: &Server) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::ConnectionReset, "a fault");
    if fate.refuse {
        return Err(broken());
    }
    if fate.hang {
        let end = Instant::now() + HANG;
        while Instant::now() < end && server.faults().healed() == healed {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        return Err(broken());
    }
    if let Some(wait) = fate.wait {
        tokio::time::sleep(wait).await;
    }
    if let Some(status) = fate.status {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok(refused(status, "SlowDown"));
    }
    let answer = handle(asked, fate.stale, server);
    if fate.drop_answer {
        return Err(broken());
    }
    Ok(answer)
}

async fn read(request: Request<Incoming>) -> io::Result<Asked> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let path = text::percent_decode(parts.uri.path());
    let (bucket, key) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_start_matches('/'), ""));
    let headers = parts.headers.iter();
    Ok(Asked {
        method: parts.method,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query: text::query(parts.uri.query()),
        headers: headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
            .collect(),
        body,
    })
}

/// What a request does, without any fault.
pub(super) fn handle(asked: &Asked, stale: Option<Duration>, server: &Server) -> Answer {
    match asked.method.as_str() {
        "GET" if asked.lists() => list(asked, stale, server),
        "GET" | "HEAD" => get(asked, server),
        "PUT" if asked.has("partNumber") => put_part(asked, server),
        "PUT" => put(asked, asked.body.clone(), server),
        "DELETE" if asked.has("uploadId") => {
            server
                .objects()
                .end_upload(asked.query.get("uploadId").map_or("", String::as_str));
            empty(StatusCode::NO_CONTENT)
        }
        "DELETE" => {
            server.objects().delete(&asked.path(), Instant::now());
            empty(StatusCode::NO_CONTENT)
        }
        "POST" if asked.has("delete") => delete_many(asked, server),
        "POST" if asked.has("uploads") => {
            let upload = server.objects().begin_upload();
            let (bucket, key) = (text::escape(&asked.bucket), text::escape(&asked.key));
            xml(format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key>\
                 <UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        "POST" if asked.has("uploadId") => complete(asked, server),
        _ => refused(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

fn put(asked: &Asked, body: Bytes, server: &Server) -> Answer {
    let only_new = asked.header("if-none-match") == Some("*");
    let now = (Instant::now(), UNIX_EPOCH + crate::world::unix_time());
    let mut objects = server.objects();
    if let Some(wanted) = asked.header("if-match")
        && objects
            .get(&asked.path())
            .is_none_or(|object| object.etag != wanted)
    {
        return refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    match objects.put(&asked.path(), body, only_new, now) {
        Some(etag) => with(empty(StatusCode::OK), "etag", &etag),
        None => refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
    }
}

fn put_part(asked: &Asked, server: &Server) -> Answer {
    let number = asked.query.get("partNumber").and_then(|n| n.parse().ok());
    let upload = asked.query.get("uploadId").map_or("", String::as_str);
    let put = number.and_then(|number| server.objects().put_part(upload, number, asked.body.clone()));
    match put {
        Some(etag) => with(empty(StatusCode::OK), "etag", &etag),
        None => refused(StatusCode::NOT_FOUND, "NoSuchUpload"),
    }
}

fn complete(asked: &Asked, server: &Server) -> Answer {
    let upload = asked.query.get("uploadId").map_or("", String::as_str);
    let Some(whole) = server.objects().end_upload(upload) else {
        return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    let answer = put(asked, whole, server);
    if !answer.status().is_success() {
        return answer;
    }
    let etag = answer
        .headers()
        .get("etag")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    xml(format!(
        "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        text::escape(&asked.bucket),
        text::escape(&asked.key),
        text::escape(etag)
    ))
}

fn delete_many(asked: &Asked, server: &Server) -> Answer {
    let mut said = String::from("<DeleteResult>");
    for key in text::elements(&String::from_utf8_lossy(&asked.body), "Key") {
        server
            .objects()
            .delete(&format!("{}/{key}", asked.bucket), Instant::now());
        let _ = write!(said, "<Deleted><Key>{}</Key></Deleted>", text::escape(&key));
    }
    said.push_str("</DeleteResult>");
    xml(said)
}

fn get(asked: &Asked, server: &Server) -> Answer {
    let objects = server.objects();
    let Some(object) = objects.get(&asked.path()) else {
        return refused(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let size = object.body.len();
    let range = asked.header("range").and_then(|range| range_of(range, size));
    let (status, body) = match range {
        Some((from, to)) => (StatusCode::PARTIAL_CONTENT, object.body.slice(from..to)),
        None => (StatusCode::OK, object.body.clone()),
    };
    let mut answer = described(status, object);
    if let Some((from, to)) = range {
        answer = with(
            answer,
            "content-range",
            &format!("bytes {from}-{}/{size}", to.saturating_sub(1)),
        );
    }
    if asked.method == Method::HEAD {
        return with(answer, "content-length", &body.len().to_string());
    }
    *answer.body_mut() = Full::new(body);
    answer
}

/// `bytes=2-5`, `bytes=2-`, `bytes=-3` as a half-open range; `None` if it is none that can be met.
fn range_of(text: &str, size: usize) -> Option<(usize, usize)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.saturating_add(1).min(size)),
        (Ok(from), Err(_)) => (from, size),
        (Err(_), Ok(last)) => (size.saturating_sub(last), size),
        _ => return None,
    };
    (from < to).then_some((from, to))
}

fn list(asked: &Asked, stale: Option<Duration>, server: &Server) -> Answer {
    let get = |name: &str| {
        asked
            .query
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let wanted = Wanted {
        bucket: &asked.bucket,
        prefix: get("prefix").unwrap_or_default(),
        delimiter: get("delimiter"),
        after: get("continuation-token").or(get("start-after")),
        most: get("max-keys")
            .and_then(|n| n.parse().ok())
            .unwrap_or(KEYS)
            .min(KEYS),
        stale,
    };
    let listing = server.objects().list(&wanted, Instant::now());
    xml(listed(&wanted, &listing))
}

fn listed(wanted: &Wanted<'_>, listing: &Listing) -> String {
    let mut said = format!(
        "<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{}</MaxKeys>\
         <IsTruncated>{}</IsTruncated>",
        text::escape(wanted.bucket),
        text::escape(wanted.prefix),
        listing.objects.len() + listing.prefixes.len(),
        wanted.most,
        listing.next.is_some()
    );
    if let Some(next) = &listing.next {
        let _ = write!(
            said,
            "<NextContinuationToken>{}</NextContinuationToken>",
            text::escape(next)
        );
    }
    for (key, object) in &listing.objects {
        let _ = write!(
            said,
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            text::escape(key),
            text::iso_date(object.modified),
            text::escape(&object.etag),
            object.body.len()
        );
    }
    for prefix in &listing.prefixes {
        let _ = write!(
            said,
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            text::escape(prefix)
        );
    }
    said.push_str("</ListBucketResult>");
    said
}

fn described(status: StatusCode, object: &Object) -> Answer {
    let answer = with(empty(status), "etag", &object.etag);
    with(answer, "last-modified", &text::http_date(object.modified))
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    if let Ok(value) = value.parse() {
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn xml(text: String) -> Answer {
    let mut answer = with(empty(StatusCode::OK), "content-type", "application/xml");
    *answer.body_mut() = Full::new(Bytes::from(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>{text}"
    )));
    answer
}

fn refused(status: StatusCode, code: &str) -> Answer {
    let mut answer = xml(format!(
        "<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    ));
    *answer.status_mut() = status;
    answer
}
