//! A snapshot of the state as one checksummed byte string, and the digest by which coordinators compare theirs.
//!
//! Layout, little-endian: magic (8 bytes), format version (u32), records (u32 length + protobuf each, the last one
//! being `End` with the number of records before it), crc32c of everything before it (u32). Knows no files.

use super::state::{
    cluster_from, cluster_to, job_from, job_to, leader_from, leader_to, session_from, session_to,
    worker_from, worker_to,
};
use super::{CodecError, Result, malformed, unknown, wide, wide_bytes};
use crate::state::{KvEntry, State};
use holdfast_common::JobId;
use holdfast_common::inject::{self, bugs};
use holdfast_proto::command as pb;
use pb::snapshot_record::Body;
use prost::Message;
use std::fmt;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"HFSTATE\0";
/// Of what this build writes and reads.
const VERSION: u32 = 1;
const PREFIX_BYTES: usize = MAGIC.len() + 4;
const CRC_BYTES: usize = 4;

/// Equal states have equal digests; a difference between coordinators at the same log index is a defect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl State {
    /// The whole state: versioned and checksummed.
    #[must_use]
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        self.for_each_record(|record| bytes.extend_from_slice(record));
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From the bytes of [`Self::snapshot_bytes`].
    ///
    /// # Errors
    /// If the bytes are damaged, cut short, or written by a build with another format.
    pub fn from_snapshot_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader {
            rest: verified_records(bytes)?,
        };
        let mut state = None;
        let mut records = 0_u64;
        loop {
            let body = reader.next()?;
            match (body, &mut state) {
                (Body::Header(header), None) => state = Some(header_from(header)?),
                (Body::End(end), Some(_)) => {
                    if end.records != records || !reader.rest.is_empty() {
                        return Err(damaged("its end does not stand where it says"));
                    }
                    break;
                }
                (body, Some(state)) => insert(state, body)?,
                (_, None) => return Err(damaged("it does not begin with a header")),
            }
            records += 1;
        }
        state.ok_or_else(|| damaged("it is empty"))
    }

    /// The digest of the whole state.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Xxh3::new();
        self.for_each_record(|record| hash.update(record));
        Digest(hash.digest128().to_be_bytes())
    }

    /// Every record with its length before it, in the one order that equal states have.
    fn for_each_record(&self, mut sink: impl FnMut(&[u8])) {
        let mut buffer = Vec::with_capacity(1024);
        let mut records = 0_u64;
        let mut put = |body: Body| {
            buffer.clear();
            buffer.extend_from_slice(&[0; 4]);
            let record = pb::SnapshotRecord { body: Some(body) };
            // A Vec grows as needed, so that encoding cannot fail; a failed one would be found by the checksum's reader.
            let encoded = record.encode(&mut buffer);
            debug_assert!(encoded.is_ok());
            let length = u32::try_from(buffer.len() - 4).unwrap_or(u32::MAX).to_le_bytes();
            buffer[..4].copy_from_slice(&length);
            sink(&buffer);
            records += 1;
            records
        };
        let mut written = put(Body::Header(pb::Header {
            applied: self.applied,
            now_ms: self.now_ms,
            cluster: self.cluster.as_ref().map(cluster_to),
            leader: self.leader.as_ref().map(leader_to),
            feature_level: self.feature_level,
        }));
        for worker in self.workers.values() {
            written = put(Body::Worker(worker_to(worker)));
        }
        for job in self.jobs.values() {
            written = put(Body::Job(job_to(job)));
        }
        for (key, job) in &self.submissions {
            written = put(Body::Submission(pb::Submission {
                key: key.clone(),
                job: wide_bytes(job.0),
            }));
        }
        for (id, session) in self
            .sessions
            .iter()
            .filter(|_| !inject::bug(bugs::DEDUP_NOT_IN_SNAPSHOT))
        {
            written = put(Body::Session(session_to(*id, session)));
        }
        for (key, entry) in &self.kv {
            written = put(Body::Kv(pb::KvRecord {
                key: key.clone(),
                value: entry.value.clone(),
                revision: entry.revision,
            }));
        }
        put(Body::End(pb::End { records: written }));
    }
}

fn damaged(reason: impl Into<String>) -> CodecError {
    CodecError::Damaged {
        reason: reason.into(),
    }
}

fn verified_records(bytes: &[u8]) -> Result<&[u8]> {
    if bytes.len() < PREFIX_BYTES + CRC_BYTES || &bytes[..MAGIC.len()] != MAGIC {
        return Err(damaged("it is too short or does not begin as a snapshot does"));
    }
    let (body, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    let version = u32_at(body, MAGIC.len());
    if version != VERSION {
        return Err(CodecError::Version {
            found: version,
            supported: VERSION,
        });
    }
    let (stored, computed) = (u32_at(crc, 0), crc32c::crc32c(body));
    if stored != computed {
        return Err(damaged(format!(
            "its checksum is {computed:08x} and should be {stored:08x}"
        )));
    }
    Ok(&body[PREFIX_BYTES..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Result<Body> {
        if self.rest.len() < 4 {
            return Err(damaged("it ends without an end"));
        }
        let length = u32_at(self.rest, 0) as usize;
        let record = self
            .rest
            .get(4..4 + length)
            .ok_or_else(|| damaged("a record is longer than the file"))?;
        self.rest = &self.rest[4 + length..];
        let record = pb::SnapshotRecord::decode(record).map_err(malformed("snapshot record"))?;
        record.body.ok_or(unknown("snapshot record"))
    }
}

fn header_from(header: pb::Header) -> Result<State> {
    Ok(State {
        applied: header.applied,
        now_ms: header.now_ms,
        cluster: header.cluster.map(cluster_from).transpose()?,
        leader: header.leader.map(leader_from).transpose()?,
        feature_level: header.feature_level,
        ..State::default()
    })
}

fn insert(state: &mut State, body: Body) -> Result<()> {
    fn once<V>(replaced: Option<V>) -> Result<()> {
        match replaced {
            None => Ok(()),
            Some(_) => Err(damaged("a record stands in it twice")),
        }
    }
    match body {
        Body::Worker(w) => {
            let worker = worker_from(w)?;
            once(state.workers.insert(worker.resource_id.clone(), worker))
        }
        Body::Job(j) => {
            let job = job_from(j)?;
            once(state.jobs.insert(job.id, Arc::new(job)))
        }
        Body::Submission(s) => once(state.submissions.insert(s.key, JobId(wide("job id", &s.job)?))),
        Body::Session(s) => {
            let (id, session) = session_from(s)?;
            once(state.sessions.insert(id, session))
        }
        Body::Kv(kv) => {
            let entry = KvEntry {
                value: kv.value,
                revision: kv.revision,
            };
            once(state.kv.insert(kv.key, entry))
        }
        Body::Header(_) | Body::End(_) => Err(damaged("a header or an end stands in its middle")),
    }
}
