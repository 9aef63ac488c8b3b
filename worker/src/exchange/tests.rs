//! The exchange over loopback: credit, order, damage, strangers and death.
#![allow(clippy::unwrap_used)]

use super::codec::decode_rows;
use super::frame::{Frame, Hello, Signal};
use super::hub::{Hub, Peer};
use super::link::{Link, LinkChannel, RemoteOutlet};
use crate::engine::cell::{Mail, TaskCell, TaskId};
use crate::engine::channel::{Credit, Inbox, Payload, charge_of};
use crate::engine::event::{Event, batch_bytes};
use crate::testing::Input;
use arrow::record_batch::RecordBatch;
use holdfast_common::limits::EXCHANGE_CREDIT_BYTES;
use holdfast_common::{AttemptId, Incarnation, JobId, VertexId};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const JOB: JobId = JobId(7);
const ATTEMPT: AttemptId = AttemptId(9);
const CHANNEL: u32 = 3;
const SILENCE: Duration = Duration::from_secs(2);

fn cell(subtask: u32) -> Arc<TaskCell> {
    let id = TaskId {
        job: JOB,
        attempt: ATTEMPT,
        vertex: VertexId(1),
        subtask,
    };
    Arc::new(TaskCell::new(id, Arc::default(), 0))
}

async fn hub(incarnation: u128) -> (Arc<Hub>, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let me = Peer {
        incarnation: Incarnation(incarnation),
        addr,
    };
    (
        Hub::start(listener, me.clone(), tokio::runtime::Handle::current()),
        me,
    )
}

/// The receiving side: a hub that expects process 1, with one channel.
struct Receiver {
    _hub: Arc<Hub>,
    peer: Peer,
    inbox: Arc<Inbox>,
    task: Arc<TaskCell>,
    stop: CancellationToken,
}

async fn receiver() -> Receiver {
    let (hub, peer) = hub(2).await;
    let (task, stop) = (cell(0), CancellationToken::new());
    let link = Link::new("the-sender:1".to_owned(), SILENCE, stop.clone());
    let inbox = Arc::new(Inbox::new(task.waker.clone(), link.credit_return(CHANNEL)));
    link.add(
        CHANNEL,
        LinkChannel::In {
            inbox: inbox.clone(),
            task: task.clone(),
        },
    );
    hub.expect(JOB, ATTEMPT, BTreeMap::from([(Incarnation(1), link)]));
    Receiver {
        _hub: hub,
        peer,
        inbox,
        task,
        stop,
    }
}

/// The sending side, connected.
async fn sender(to: &Peer) -> (Arc<Hub>, RemoteOutlet, Arc<TaskCell>, CancellationToken) {
    let (hub, _) = hub(1).await;
    let (task, stop) = (cell(1), CancellationToken::new());
    let link = Link::new(to.addr.clone(), SILENCE, stop.clone());
    let credit = Arc::new(Credit::new(task.waker.clone()));
    link.add(
        CHANNEL,
        LinkChannel::Out {
            credit: credit.clone(),
            task: task.clone(),
        },
    );
    hub.dial(JOB, ATTEMPT, to, link.clone()).await.unwrap();
    (hub, RemoteOutlet::new(link, CHANNEL, credit), task, stop)
}

fn rows(count: u64) -> RecordBatch {
    let input = Input {
        splits: 1,
        rows: count,
        keys: 4,
        disorder_ms: 0,
    };
    Input::batch(&(0..count).map(|o| input.row(0, o)).collect::<Vec<_>>())
}

/// Waits for something that another task of the runtime will bring about.
async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .unwrap()
}

async fn failure(task: &TaskCell) -> String {
    eventually(|| {
        task.receive().into_iter().find_map(|mail| match mail {
            Mail::Fail(reason) => Some(reason),
            _ => None,
        })
    })
    .await
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn rows_and_events_arrive_in_order_and_credit_returns() {
    run(async {
        let receiver = receiver().await;
        let (_hub, mut outlet, _, _stop) = sender(&receiver.peer).await;
        let batch = rows(500);
        let charge = charge_of(batch_bytes(&batch));
        // A slow consumer: the sender gets exactly one window in.
        let mut sent = 0;
        while outlet.credit().take(charge) {
            outlet.send(Event::Data(batch.clone()), charge).unwrap();
            sent += 1;
        }
        assert_eq!(sent, EXCHANGE_CREDIT_BYTES / charge as usize);
        // What needs no credit passes nevertheless.
        outlet.send(Event::Watermark(5), 0).unwrap();
        outlet.send(Event::End, 0).unwrap();
        for _ in 0..sent {
            let (payload, taken) = eventually(|| receiver.inbox.pop()).await;
            let Payload::Encoded(body) = payload else {
                panic!("not rows")
            };
            assert_eq!(decode_rows(&body, &batch.schema()).unwrap(), batch);
            assert_eq!(taken, charge);
            receiver.inbox.release(taken);
        }
        for expected in ["Watermark(5)", "End"] {
            let (payload, _) = eventually(|| receiver.inbox.pop()).await;
            assert!(
                matches!(&payload, Payload::Event(e) if format!("{e:?}") == expected),
                "{payload:?}"
            );
        }
        eventually(|| (outlet.credit().used() == 0).then_some(())).await;
    });
}

fn hello(attempt: AttemptId, from: u128, to: Incarnation) -> Frame {
    Frame::Hello(Hello {
        job: JOB,
        attempt,
        from: Incarnation(from),
        to,
        from_addr: "raw".to_owned(),
    })
}

async fn greet(peer: &Peer, hello: &Frame) -> (TcpStream, Frame) {
    let mut stream = TcpStream::connect(&peer.addr).await.unwrap();
    stream.write_all(&hello.encode()).await.unwrap();
    let answer = Frame::read(&mut stream).await.unwrap();
    (stream, answer)
}

#[test]
fn strangers_are_refused() {
    run(async {
        let receiver = receiver().await;
        let peer = &receiver.peer;
        let refusal = |answer: Frame| match answer {
            Frame::Refused { later, reason } => (later, reason),
            other => panic!("{other:?}"),
        };
        let (_, answer) = greet(peer, &hello(AttemptId(8), 1, peer.incarnation)).await;
        let (later, reason) = refusal(answer);
        assert!(later && reason.contains("attempt 8"), "{reason}");
        let (_, answer) = greet(peer, &hello(ATTEMPT, 1, Incarnation(99))).await;
        assert!(!refusal(answer).0);
        let (_, answer) = greet(peer, &hello(ATTEMPT, 66, peer.incarnation)).await;
        assert!(!refusal(answer).0);
        let (_first, answer) = greet(peer, &hello(ATTEMPT, 1, peer.incarnation)).await;
        assert_eq!(answer, Frame::Welcome);
        let (_, answer) = greet(peer, &hello(ATTEMPT, 1, peer.incarnation)).await;
        assert!(refusal(answer).1.contains("already"));
    });
}

#[test]
fn a_damaged_frame_fails_the_task() {
    run(async {
        let receiver = receiver().await;
        let (mut stream, _) = greet(&receiver.peer, &hello(ATTEMPT, 1, receiver.peer.incarnation)).await;
        let mut frame = Frame::Event {
            channel: CHANNEL,
            seq: 0,
            event: Signal::Watermark(5),
        }
        .encode()
        .to_vec();
        *frame.last_mut().unwrap() ^= 1;
        stream.write_all(&frame).await.unwrap();
        let reason = failure(&receiver.task).await;
        assert!(
            reason.contains("damaged") && reason.contains("the-sender:1"),
            "{reason}"
        );
        assert!(receiver.inbox.is_empty());
    });
}

#[test]
fn a_lost_frame_and_a_flood_fail_the_task() {
    run(async {
        for frames in [
            vec![Frame::Event {
                channel: CHANNEL,
                seq: 1,
                event: Signal::Idle,
            }],
            vec![Frame::Event {
                channel: 55,
                seq: 0,
                event: Signal::Idle,
            }],
            vec![Frame::Credit {
                channel: CHANNEL,
                bytes: 1,
            }],
            (0..2)
                .map(|seq| Frame::Data {
                    channel: CHANNEL,
                    seq,
                    charge: EXCHANGE_CREDIT_BYTES as u32,
                    body: bytes::Bytes::from_static(b"x"),
                })
                .collect(),
        ] {
            let receiver = receiver().await;
            let (mut stream, _) = greet(&receiver.peer, &hello(ATTEMPT, 1, receiver.peer.incarnation)).await;
            for frame in &frames {
                stream.write_all(&frame.encode()).await.unwrap();
            }
            let reason = failure(&receiver.task).await;
            assert!(reason.contains("channel"), "{reason}");
        }
    });
}

#[test]
fn a_dead_peer_fails_tasks_that_still_need_it() {
    run(async {
        let receiver = receiver().await;
        let (_hub, _outlet, sending, stop) = sender(&receiver.peer).await;
        stop.cancel();
        let reason = failure(&receiver.task).await;
        assert!(
            reason.contains("the-sender:1") && reason.contains("closed"),
            "{reason}"
        );
        assert!(
            sending.receive().is_empty(),
            "who stops on purpose has not failed"
        );
    });
    run(async {
        let receiver = receiver().await;
        let (_hub, _outlet, sending, _stop) = sender(&receiver.peer).await;
        receiver.stop.cancel();
        let reason = failure(&sending).await;
        assert!(reason.contains(&receiver.peer.addr), "{reason}");
    });
    // After the end nobody is needed any more.
    run(async {
        let receiver = receiver().await;
        let (_hub, mut outlet, _, stop) = sender(&receiver.peer).await;
        outlet.send(Event::End, 0).unwrap();
        eventually(|| receiver.inbox.pop()).await;
        stop.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(receiver.task.receive().is_empty());
    });
}

/// A peer whose machine is cut off: the connection stands, nobody resets it, and nothing comes.
#[test]
fn a_peer_that_falls_silent_is_lost_after_the_timeout_and_one_that_says_nothing_else_is_not() {
    run(async {
        let silence = Duration::from_millis(400);
        let ends = || {
            let task = cell(0);
            let link = Link::new("the-peer:1".to_owned(), silence, CancellationToken::new());
            let inbox = Arc::new(Inbox::new(task.waker.clone(), link.credit_return(CHANNEL)));
            let channel = LinkChannel::In {
                inbox,
                task: task.clone(),
            };
            link.add(CHANNEL, channel);
            (link, task)
        };
        let (cut_off, deaf) = tokio::io::duplex(1 << 16);
        let (one, other) = tokio::io::duplex(1 << 16);
        let ((lonely, lonely_task), (first, first_task), (second, _)) = (ends(), ends(), ends());
        let spawn = |link: Arc<Link>, io| {
            let (reader, writer) = tokio::io::split(io);
            tokio::spawn(link.run(reader, writer));
        };
        let began = std::time::Instant::now();
        spawn(lonely, cut_off);
        spawn(first, one);
        spawn(second, other);
        let reason = failure(&lonely_task).await;
        assert!(reason.contains("nothing was heard of it for 400 ms"), "{reason}");
        assert!(began.elapsed() >= silence, "{:?}", began.elapsed());
        assert!(first_task.receive().is_empty(), "both ends live");
        drop(deaf);
    });
}
