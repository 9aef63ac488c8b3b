//! The object server over its own HTTP, with and without faults.
#![allow(clippy::unwrap_used)]

use super::http::{Asked, handle};
use super::*;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use std::collections::BTreeMap;

fn server() -> Server {
    Server::new(tempfile::tempfile().unwrap(), 1)
}

fn asked(method: Method, key: &str, query: &str, headers: &[(&str, &str)], body: &str) -> Asked {
    Asked {
        method,
        bucket: "b".into(),
        key: key.into(),
        query: text::query(Some(query)),
        headers: headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        body: Bytes::from(body.to_owned()),
    }
}

fn say(server: &Server, asked: &Asked, stale: Option<Duration>) -> (u16, String) {
    let answer = handle(asked, stale, server);
    let status = answer.status().as_u16();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn a_new_object_is_written_once() {
    let server = server();
    let new = asked(Method::PUT, "a/1", "", &[("if-none-match", "*")], "one");
    assert_eq!(say(&server, &new, None).0, 200);
    assert_eq!(say(&server, &new, None).0, 412);
    assert_eq!(
        say(&server, &asked(Method::GET, "a/1", "", &[], ""), None),
        (200, "one".into())
    );
    let part = asked(Method::GET, "a/1", "", &[("range", "bytes=1-1")], "");
    assert_eq!(say(&server, &part, None), (206, "n".into()));
    assert_eq!(say(&server, &asked(Method::GET, "a/2", "", &[], ""), None).0, 404);
}

#[test]
fn listings_come_in_parts_fold_and_lag_behind() {
    let server = server();
    for key in ["p/a/1", "p/a/2", "p/b", "p/c", "q"] {
        say(&server, &asked(Method::PUT, key, "", &[], "x"), None);
    }
    let list = |query: &str, stale| say(&server, &asked(Method::GET, "", query, &[], ""), stale).1;
    let whole = list("list-type=2&prefix=p%2F", None);
    assert_eq!(text::elements(&whole, "Key"), ["p/a/1", "p/a/2", "p/b", "p/c"]);
    let folded = list("prefix=p%2F&delimiter=%2F", None);
    assert_eq!(text::elements(&folded, "Key"), ["p/b", "p/c"]);
    assert!(folded.contains("<CommonPrefixes><Prefix>p/a/</Prefix>"));
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let part = list(
            &format!("prefix=p%2F&max-keys=1&continuation-token={token}"),
            None,
        );
        seen.extend(text::elements(&part, "Key"));
        match text::elements(&part, "NextContinuationToken").pop() {
            Some(next) => token = next,
            None => break,
        }
    }
    assert_eq!(seen, ["p/a/1", "p/a/2", "p/b", "p/c"]);
    let long_ago = Some(Duration::from_secs(3600));
    assert!(text::elements(&list("prefix=p%2F", long_ago), "Key").is_empty());
}

#[test]
fn uploads_in_parts_and_deletions_of_many() {
    let server = server();
    let begun = say(&server, &asked(Method::POST, "big", "uploads", &[], ""), None).1;
    let id = text::elements(&begun, "UploadId").remove(0);
    for (part, body) in [(2, "cd"), (1, "ab")] {
        let put = asked(
            Method::PUT,
            "big",
            &format!("partNumber={part}&uploadId={id}"),
            &[],
            body,
        );
        assert_eq!(say(&server, &put, None).0, 200);
    }
    let end = asked(Method::POST, "big", &format!("uploadId={id}"), &[], "<x/>");
    assert_eq!(say(&server, &end, None).0, 200);
    assert_eq!(say(&server, &end, None).0, 404);
    assert_eq!(
        say(&server, &asked(Method::GET, "big", "", &[], ""), None).1,
        "abcd"
    );
    let gone = asked(
        Method::POST,
        "",
        "delete",
        &[],
        "<Delete><Object><Key>big</Key></Object></Delete>",
    );
    assert!(say(&server, &gone, None).1.contains("<Deleted><Key>big</Key>"));
    assert_eq!(say(&server, &asked(Method::GET, "big", "", &[], ""), None).0, 404);
}
