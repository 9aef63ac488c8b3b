//! The `filesystem` sink on object stores: output gathers in a temporary file, is uploaded in parts at the barrier, and
//! the upload is completed when the checkpoint's log entry exists. Until then a store shows nothing of it.
//!
//! Uploads of abandoned attempts are invisible; stores drop them by a lifecycle rule.

use super::names::{self, WriterNames};
use super::part::{ClosedPart, PartWriter};
use super::stream::io_error;
use crate::format::Format;
use crate::options::Options;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use holdfast_common::limits::{SINK_PART_BYTES, STORAGE_BYTES_PER_SECOND_MIN, STORAGE_DEADLINE};
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob, Sink, SinkContext, SinkWriter};
use holdfast_storage::object_store::multipart::{MultipartStore, PartId};
use holdfast_storage::object_store::path::Path as ObjectPath;
use holdfast_storage::object_store::{self, ObjectStore as _, ObjectStoreExt as _, PutPayload};
use holdfast_storage::{ObjectLocation, S3Settings, StorageError};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

const VERSION: u32 = 1;

/// A checked sink table.
pub(super) struct ObjectSink {
    target: Arc<Target>,
}

struct Target {
    location: ObjectLocation,
    multipart: Arc<dyn MultipartStore>,
    format: Format,
    roll_bytes: u64,
}

/// An upload that waits to be completed.
#[derive(Debug, Serialize, Deserialize)]
struct PreparedUpload {
    v: u32,
    /// Below the sink's path.
    name: String,
    upload: String,
    parts: Vec<String>,
    size: u64,
    crc32c: u32,
    rows: u64,
}

impl ObjectSink {
    pub(super) fn open(
        options: &Options<'_>,
        url: &str,
        s3: &S3Settings,
        format: Format,
        roll_bytes: u64,
    ) -> Result<Self, ConnectorError> {
        let location =
            ObjectLocation::open(url, s3).map_err(|e| options.wrong("path", &format!("does not do: {e}")))?;
        let Some(multipart) = location.multipart.clone() else {
            return Err(options.wrong("path", "lies in a store without multipart uploads"));
        };
        Ok(Self {
            target: Arc::new(Target {
                location,
                multipart,
                format,
                roll_bytes,
            }),
        })
    }
}

impl Sink for ObjectSink {
    fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        std::fs::create_dir_all(&context.tmp_dir)
            .map_err(|e| io_error("create the directory", &context.tmp_dir, &e))?;
        let names = WriterNames::new(
            context.job,
            &context.uid,
            context.attempt,
            context.subtask,
            self.target.format.extension(),
        );
        let parts = PartWriter::new(
            context.tmp_dir,
            names.clone(),
            self.target.format.encoder(),
            self.target.roll_bytes,
        );
        Ok(Box::new(ObjectWriter {
            target: self.target.clone(),
            names,
            subtask: context.subtask,
            parts,
            waiting: Arc::default(),
        }))
    }

    fn commits(&self) -> bool {
        true
    }

    fn commit(&self, _checkpoint: CheckpointId, committables: &[Committable]) -> Result<(), ConnectorError> {
        for committable in committables {
            let wrong = |reason: String| {
                ConnectorError::Conflict(format!("a prepared upload's record does not parse: {reason}"))
            };
            let prepared: PreparedUpload =
                serde_json::from_slice(&committable.data).map_err(|e| wrong(e.to_string()))?;
            if prepared.v != VERSION {
                return Err(wrong(format!(
                    "version {}, this build knows {VERSION}",
                    prepared.v
                )));
            }
            self.target.complete(prepared)?;
        }
        Ok(())
    }

    fn recover(
        &self,
        job: JobId,
        attempt: AttemptId,
        restored: Option<CheckpointId>,
    ) -> Result<(), ConnectorError> {
        self.target.remove_abandoned(job, attempt, restored)
    }

    fn location(&self) -> Option<String> {
        Some(self.target.location.url.clone())
    }
}

impl Target {
    fn path(&self, name: &str) -> Result<ObjectPath, ConnectorError> {
        self.location
            .join(name)
            .map_err(|e| ConnectorError::Conflict(e.to_string()))
    }

    fn failed(&self, action: &str, name: &str, error: &object_store::Error) -> ConnectorError {
        let full = format!("{}/{name}", self.location.url);
        ConnectorError::Io(StorageError::from_store(&full, action, error).to_string())
    }

    /// The size of a visible object.
    fn visible(&self, path: &ObjectPath, name: &str) -> Result<Option<u64>, ConnectorError> {
        let (store, path) = (self.location.store.clone(), path.clone());
        match wait(STORAGE_DEADLINE, async move { store.head(&path).await })? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("look at", name, &e)),
        }
    }

    fn complete(&self, prepared: PreparedUpload) -> Result<(), ConnectorError> {
        let path = self.path(&prepared.name)?;
        if self.is_complete(&path, &prepared)? {
            return Ok(());
        }
        let (store, target) = (self.multipart.clone(), path.clone());
        let upload = prepared.upload.clone();
        let parts = prepared
            .parts
            .iter()
            .map(|id| PartId {
                content_id: id.clone(),
            })
            .collect();
        let completed = wait(STORAGE_DEADLINE, async move {
            store.complete_multipart(&target, &upload, parts).await
        })?;
        let Err(error) = completed else { return Ok(()) };
        // Another run may have completed it meanwhile, or this call's answer was lost on the way.
        if self.is_complete(&path, &prepared)? {
            return Ok(());
        }
        if upload_is_gone(&error) {
            return Err(ConnectorError::Conflict(format!(
                "upload '{}' of {}/{} no longer exists and neither does the object: {} committed rows are lost",
                prepared.upload, self.location.url, prepared.name, prepared.rows
            )));
        }
        Err(self.failed("complete", &prepared.name, &error))
    }

    fn is_complete(&self, path: &ObjectPath, prepared: &PreparedUpload) -> Result<bool, ConnectorError> {
        match self.visible(path, &prepared.name)? {
            None => Ok(false),
            Some(size) if size == prepared.size => Ok(true),
            Some(size) => Err(ConnectorError::Conflict(format!(
                "{}/{} exists with {size} bytes instead of {}",
                self.location.url, prepared.name, prepared.size
            ))),
        }
    }

    fn remove_abandoned(
        &self,
        job: JobId,
        attempt: AttemptId,
        restored: Option<CheckpointId>,
    ) -> Result<(), ConnectorError> {
        let (store, prefix) = (self.location.store.clone(), self.location.prefix.clone());
        let listing = wait(STORAGE_DEADLINE, async move {
            store.list_with_delimiter(Some(&prefix)).await
        })?;
        let objects = match listing {
            Ok(listing) => listing.objects,
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(self.failed("list", "", &e)),
        };
        for object in objects {
            let name = self.location.strip(&object.location);
            let parsed = names::parse(&name, job, self.format.extension());
            if parsed.is_some_and(|name| name.is_abandoned(attempt, restored)) {
                let (store, path) = (self.location.store.clone(), object.location);
                let deleted = wait(STORAGE_DEADLINE, async move { store.delete(&path).await })?;
                if let Err(e) = deleted
                    && !matches!(e, object_store::Error::NotFound { .. })
                {
                    return Err(self.failed("delete", &name, &e));
                }
            }
        }
        Ok(())
    }

    /// Uploads a file's parts without completing the upload.
    fn upload(&self, name: &str, part: &ClosedPart) -> Result<PreparedUpload, ConnectorError> {
        let path = self.path(name)?;
        let (store, target) = (self.multipart.clone(), path.clone());
        let upload = wait(
            STORAGE_DEADLINE,
            async move { store.create_multipart(&target).await },
        )?
        .map_err(|e| self.failed("begin the upload of", name, &e))?;
        let result = self.upload_parts(&path, &upload, name, part);
        if result.is_err() {
            let (store, id) = (self.multipart.clone(), upload);
            // Best effort: an upload that stays costs space, nothing else.
            let _ = wait(STORAGE_DEADLINE, async move {
                store.abort_multipart(&path, &id).await
            });
        }
        result
    }

    fn upload_parts(
        &self,
        path: &ObjectPath,
        upload: &str,
        name: &str,
        part: &ClosedPart,
    ) -> Result<PreparedUpload, ConnectorError> {
        let mut ids = Vec::new();
        let mut offset = 0;
        while offset < part.size {
            let length = (part.size - offset).min(SINK_PART_BYTES as u64);
            let mut body = vec![0; usize::try_from(length).unwrap_or(SINK_PART_BYTES)];
            part.file
                .read_exact_at(&mut body, offset)
                .map_err(|e| io_error("read", part.temp.path(), &e))?;
            let (store, path, upload) = (self.multipart.clone(), path.clone(), upload.to_owned());
            let index = ids.len();
            let deadline = STORAGE_DEADLINE + Duration::from_secs(length / STORAGE_BYTES_PER_SECOND_MIN);
            let id = wait(deadline, async move {
                let payload = PutPayload::from_bytes(Bytes::from(body));
                store.put_part(&path, &upload, index, payload).await
            })?
            .map_err(|e| self.failed("upload", name, &e))?;
            ids.push(id.content_id);
            offset += length;
        }
        Ok(PreparedUpload {
            v: VERSION,
            name: name.to_owned(),
            upload: upload.to_owned(),
            parts: ids,
            size: part.size,
            crc32c: part.crc32c,
            rows: part.rows,
        })
    }
}

/// Whether a failed completion means that the store does not know the upload, now or ever.
fn upload_is_gone(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        || ["NoSuchUpload", "No multipart upload", "not found", "not exist"]
            .iter()
            .any(|text| error.to_string().contains(text))
}

struct ObjectWriter {
    target: Arc<Target>,
    names: WriterNames,
    subtask: u32,
    parts: PartWriter,
    /// Uploads that are due. An outage of the store leaves them here for the next checkpoint, so that the job lives on.
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    closed: Vec<(CheckpointId, String, ClosedPart)>,
    done: Vec<Committable>,
}

impl SinkWriter for ObjectWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        self.parts.write(rows)
    }

    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        let parts = self.parts.take()?;
        let (target, waiting, subtask) = (self.target.clone(), self.waiting.clone(), self.subtask);
        let named: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| (checkpoint, self.names.committed(checkpoint, index), part))
            .collect();
        let mut queue = Some(named);
        // An earlier job may hold the lock for as long as its uploads take; this thread must not wait for it.
        if let Ok(mut free) = self.waiting.try_lock() {
            free.closed.extend(queue.take().into_iter().flatten());
        }
        let rest = Rest {
            parts: queue.unwrap_or_default(),
            waiting,
        };
        Ok(Box::new(move || rest.upload(&target, subtask)))
    }
}

/// Parts that could not be queued when they were closed; they are queued when the job runs or is dropped.
struct Rest {
    parts: Vec<(CheckpointId, String, ClosedPart)>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Rest {
    fn upload(mut self, target: &Target, subtask: u32) -> Result<Vec<Committable>, ConnectorError> {
        let mut guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut *guard;
        waiting.closed.append(&mut self.parts);
        while let Some((checkpoint, name, part)) = waiting.closed.first() {
            let prepared = target.upload(name, part)?;
            waiting.done.push(Committable {
                checkpoint: *checkpoint,
                subtask,
                data: serde_json::to_vec(&prepared)
                    .map_err(|e| ConnectorError::Conflict(format!("cannot record an upload: {e}")))?,
            });
            waiting.closed.remove(0);
        }
        Ok(std::mem::take(&mut waiting.done))
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if !self.parts.is_empty() {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.closed.append(&mut self.parts);
        }
    }
}

/// Runs a call to a store on this crate's own IO thread and waits for it, from any thread, for a limited time.
fn wait<T: Send + 'static>(
    deadline: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ConnectorError> {
    static RUNTIME: OnceLock<std::io::Result<tokio::runtime::Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-sink-io")
            .enable_all()
            .build()
    });
    let runtime = runtime
        .as_ref()
        .map_err(|e| ConnectorError::Io(format!("cannot start a thread for object stores: {e}")))?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let task = runtime.spawn(async move {
        let _ = sender.send(work.await);
    });
    receiver.recv_timeout(deadline).map_err(|_| {
        task.abort();
        ConnectorError::Io(format!(
            "the object store did not answer within {} s",
            deadline.as_secs()
        ))
    })
}
