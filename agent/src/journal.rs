//! What must survive the agent: lanes, answered requests, tickets and a few facts, in one file.
//!
//! An embedded ACID store (redb) rather than a log of our own. Every call is one transaction that
//! survives a kill of the agent once it returned, and not the end of the kernel, which ends every
//! lane. Knows nothing of effects; the controller decides the order.

mod pages;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ledger::Role;
use crate::model::id::LaneId;
use crate::model::lane::LaneRecord;

/// Version of the records.
pub const SCHEMA: u64 = 1;
/// Answered requests are kept this long at least, in milliseconds.
pub const REQUEST_KEEP_MS: u64 = 10 * 60 * 1000;
/// Answered requests kept at most, whatever their age: a caller must not fill the disk.
const REQUESTS_MAX: usize = 20_000;

const LANES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("lanes");
const REQUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("requests");
const TICKETS: TableDefinition<'_, TicketHash, &[u8]> = TableDefinition::new("tickets");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

/// The open store.
#[derive(Debug)]
pub struct Journal {
    db: Database,
}

/// A request that was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    /// SHA-256 of method and content.
    pub hash: String,
    /// The answer.
    pub lane: LaneRecord,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// SHA-256 of a ticket: the file holds no secret.
pub type TicketHash = [u8; 32];

/// A ticket that was issued.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TicketRecord {
    /// The lane.
    pub lane: LaneId,
    /// The end.
    pub role: Role,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether somebody attached with it. Kept, so that a repeated request does not revive it.
    pub used: bool,
    /// SHA-256 of the request that asked for it.
    pub request_hash: String,
}

/// Why the store failed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The store said no.
    #[error("journal: {0}")]
    Store(Box<redb::Error>),
    /// A file beside the store, or the store's own, cannot be had.
    #[error("journal: cannot {what}: {source}")]
    File {
        /// What was tried.
        what: String,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// A record cannot be read.
    #[error("journal: a record of table {table} cannot be read: {source}")]
    Record {
        /// The table.
        table: &'static str,
        /// Where and what.
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error("journal: {path} has schema {found}, this agent reads {SCHEMA}; move it away")]
    Schema {
        /// The file.
        path: String,
        /// Version found.
        found: u64,
    },
}

impl<E: Into<redb::Error>> From<E> for JournalError {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

impl Journal {
    /// Opens or makes the store of the boot `boot_id`.
    ///
    /// One of another boot is set aside as `*.previous`: nothing in it exists any more, and after
    /// a power cut it may be torn. The boot stands in `*.boot`, beside the store.
    ///
    /// # Errors
    /// The store is damaged, held by another agent, or of another version.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, JournalError> {
        let failed = |what: &str, path: &Path| {
            let what = format!("{what} {}", path.display());
            move |source| JournalError::File { what, source }
        };
        let mark = path.with_extension("boot");
        if !fs::read_to_string(&mark).is_ok_and(|found| found == boot_id) {
            let previous = path.with_extension("previous");
            match fs::rename(path, &previous) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(failed("move the journal to", &previous))?,
            }
            // Only after the move: a mark beside a store of another boot would vouch for it.
            fs::write(&mark, boot_id).map_err(failed("write", &mark))?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed("open", path))?;
        // The default cache is a gigabyte; a thousand lanes are two megabytes.
        let mut builder = Database::builder();
        let db = builder.set_cache_size(4 << 20).create_with_backend(pages::Pages::new(file)?)?;
        let write = db.begin_write()?;
        write.open_table(LANES)?;
        write.open_table(REQUESTS)?;
        write.open_table(TICKETS)?;
        write.open_table(FACTS)?;
        write.commit()?;
        let journal = Self { db };
        match journal.fact::<u64>("schema")? {
            None => journal.set_fact("schema", &SCHEMA)?,
            Some(SCHEMA) => {}
            Some(found) => {
                return Err(JournalError::Schema { path: path.display().to_string(), found });
            }
        }
        Ok(journal)
    }

    /// Writes a lane, and with it the answer to the request that changed it.
    ///
    /// # Errors
    /// The store said no; nothing was written.
    pub fn put_lane(
        &self,
        lane: &LaneRecord,
        request: Option<(&str, &RequestRecord)>,
    ) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        write.open_table(LANES)?.insert(lane.id.0, encode(lane).as_slice())?;
        if let Some((id, request)) = request {
            write.open_table(REQUESTS)?.insert(id, encode(request).as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// Writes a lane of which an end was taken, and with it the ticket that was used.
    ///
    /// # Errors
    /// The store said no; nothing was written.
    pub fn put_taken(
        &self,
        lane: &LaneRecord,
        ticket: Option<(TicketHash, &TicketRecord)>,
    ) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        write.open_table(LANES)?.insert(lane.id.0, encode(lane).as_slice())?;
        if let Some((hash, used)) = ticket {
            write.open_table(TICKETS)?.insert(hash, encode(used).as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// Removes a lane and its tickets, and with them writes the answer to the request for that.
    ///
    /// # Errors
    /// The store said no; nothing was written.
    pub fn remove_lane(
        &self,
        lane: LaneId,
        tickets: &[TicketHash],
        request: Option<(&str, &RequestRecord)>,
    ) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        write.open_table(LANES)?.remove(lane.0)?;
        remove_tickets(&write, tickets)?;
        if let Some((id, request)) = request {
            write.open_table(REQUESTS)?.insert(id, encode(request).as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// Every lane.
    ///
    /// # Errors
    /// The store said no, or a record cannot be read.
    pub fn lanes(&self) -> Result<Vec<LaneRecord>, JournalError> {
        let table = self.db.begin_read()?.open_table(LANES)?;
        let mut lanes = Vec::new();
        for entry in table.iter()? {
            lanes.push(decode("lanes", entry?.1.value())?);
        }
        Ok(lanes)
    }

    /// The answer to a request, if it was answered.
    ///
    /// # Errors
    /// The store said no, or the record cannot be read.
    pub fn request(&self, id: &str) -> Result<Option<RequestRecord>, JournalError> {
        let table = self.db.begin_read()?.open_table(REQUESTS)?;
        table.get(id)?.map(|bytes| decode("requests", bytes.value())).transpose()
    }

    /// Forgets answers that are older than they must be, and these tickets.
    ///
    /// # Errors
    /// The store said no.
    pub fn prune(&self, now_ms: u64, tickets: &[TicketHash]) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        {
            let mut requests = write.open_table(REQUESTS)?;
            let oldest = oldest_kept(&requests, now_ms)?;
            requests.retain(|_, bytes| at_ms(bytes).is_some_and(|at| at >= oldest))?;
        }
        remove_tickets(&write, tickets)?;
        Ok(write.commit()?)
    }

    /// Writes a ticket under its hash.
    ///
    /// # Errors
    /// The store said no.
    pub fn put_ticket(&self, hash: &TicketHash, ticket: &TicketRecord) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        write.open_table(TICKETS)?.insert(hash, encode(ticket).as_slice())?;
        Ok(write.commit()?)
    }

    /// Every ticket.
    ///
    /// # Errors
    /// The store said no, or a record cannot be read.
    pub fn tickets(&self) -> Result<HashMap<TicketHash, TicketRecord>, JournalError> {
        let table = self.db.begin_read()?.open_table(TICKETS)?;
        let mut tickets = HashMap::new();
        for entry in table.iter()? {
            let (hash, record) = entry?;
            tickets.insert(hash.value(), decode("tickets", record.value())?);
        }
        Ok(tickets)
    }

    /// A fact by name.
    ///
    /// # Errors
    /// The store said no, or the record cannot be read.
    pub fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JournalError> {
        let table = self.db.begin_read()?.open_table(FACTS)?;
        table.get(name)?.map(|bytes| decode("facts", bytes.value())).transpose()
    }

    /// Writes a fact.
    ///
    /// # Errors
    /// The store said no.
    pub fn set_fact<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        let write = self.db.begin_write()?;
        write.open_table(FACTS)?.insert(name, encode(value).as_slice())?;
        Ok(write.commit()?)
    }
}

fn remove_tickets(write: &WriteTransaction, tickets: &[TicketHash]) -> Result<(), JournalError> {
    let mut table = write.open_table(TICKETS)?;
    for hash in tickets {
        table.remove(hash)?;
    }
    Ok(())
}

/// When an answer was given. The lane in it is passed over: there may be thousands of them.
fn at_ms(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Answered {
        at_ms: u64,
    }
    serde_json::from_slice::<Answered>(bytes).ok().map(|answered| answered.at_ms)
}

/// The age at which answers are forgotten: ten minutes, or less if there are too many.
fn oldest_kept(
    requests: &impl ReadableTable<&'static str, &'static [u8]>,
    now_ms: u64,
) -> Result<u64, JournalError> {
    let mut times = Vec::new();
    for entry in requests.iter()? {
        times.extend(at_ms(entry?.1.value()));
    }
    times.sort_unstable_by(|a, b| b.cmp(a));
    let crowded = times.get(REQUESTS_MAX).map_or(0, |time| time + 1);
    Ok(now_ms.saturating_sub(REQUEST_KEEP_MS).max(crowded))
}

/// Our own records have no map keys that are not text and no failing serializers.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(bytes).map_err(|source| JournalError::Record { table, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_another_boot_is_set_aside_even_if_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = Journal::open(&path, "first").unwrap();
        journal.set_fact("kept", &7u64).unwrap();
        drop(journal);
        let journal = Journal::open(&path, "first").unwrap();
        assert_eq!(journal.fact::<u64>("kept").unwrap(), Some(7));
        drop(journal);
        fs::write(&path, b"what a power cut left").unwrap();
        assert!(Journal::open(&path, "first").is_err(), "damage within a boot is told");
        let journal = Journal::open(&path, "second").unwrap();
        assert_eq!(journal.fact::<u64>("kept").unwrap(), None);
        let aside = fs::read(path.with_extension("previous")).unwrap();
        assert_eq!(aside, b"what a power cut left");
    }

    #[test]
    fn two_agents_cannot_open_one_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let first = Journal::open(&path, "boot").unwrap();
        assert!(Journal::open(&path, "boot").is_err());
        drop(first);
        Journal::open(&path, "boot").unwrap();
    }
}
