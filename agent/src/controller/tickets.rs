//! One-time rights to an end: issued, found by their hash, burnt with the grant that they are for.

use sha2::{Digest, Sha256};

use super::{ControlError, Controller, RequestId, Ticket, now_ms, random};
use crate::journal::{REQUEST_KEEP_MS, TicketHash, TicketRecord};
use crate::ledger::Role;
use crate::model::id::{LaneId, Secret};

/// Changes between two scans for what can be forgotten.
const CHANGES_BETWEEN_PRUNES: u32 = 256;

impl Controller {
    pub(crate) fn issue_ticket(
        &mut self,
        request: &RequestId,
        lane: &str,
        role: Role,
        ttl_ms: u64,
    ) -> Result<Ticket, ControlError> {
        let lane = self.find(lane)?;
        let now = now_ms();
        self.prune_sometimes(now)?;
        let text = self.ticket_text(request)?;
        let hash = ticket_hash(&text);
        let record = match self.tickets.get(&hash).cloned() {
            Some(record) if record.request_hash == request.hash => record,
            Some(_) => {
                return Err(ControlError::RequestIdReused { id: request.id.clone() });
            }
            None => {
                let record = TicketRecord {
                    lane,
                    role,
                    expires_ms: now.saturating_add(ttl_ms),
                    used: false,
                    request_hash: request.hash.clone(),
                };
                self.journal.put_ticket(&hash, &record)?;
                self.tickets.insert(hash, record.clone());
                record
            }
        };
        Ok(Ticket { text, expires_ms: record.expires_ms })
    }

    /// Forgets old answers and tickets, after every so many changes: a scan is not for each.
    pub(crate) fn prune_sometimes(&mut self, now: u64) -> Result<(), ControlError> {
        self.changes_since_prune += 1;
        if self.changes_since_prune >= CHANGES_BETWEEN_PRUNES {
            self.changes_since_prune = 0;
            self.prune(now)?;
        }
        Ok(())
    }

    pub(super) fn prune(&mut self, now: u64) -> Result<(), ControlError> {
        let expired = |ticket: &TicketRecord| ticket.expires_ms + REQUEST_KEEP_MS <= now;
        let old = self.tickets.iter().filter(|(_, ticket)| expired(ticket));
        let old: Vec<TicketHash> = old.map(|(hash, _)| *hash).collect();
        self.journal.prune(now, &old)?;
        self.tickets.retain(|_, ticket| !expired(ticket));
        Ok(())
    }

    /// The tickets of a lane.
    pub(super) fn tickets_of(&self, lane: LaneId) -> Vec<TicketHash> {
        let all = self.tickets.iter().filter(|(_, ticket)| ticket.lane == lane);
        all.map(|(hash, _)| *hash).collect()
    }

    /// A random ticket; for a request with an id, the one that belongs to it, so that the answer
    /// can be repeated although the journal keeps no secret but its own.
    fn ticket_text(&self, request: &RequestId) -> Result<String, ControlError> {
        if request.id.is_empty() {
            return Ok(format!("{:032x}", random()));
        }
        let key = match self.journal.fact::<Secret>("ticket_key")? {
            Some(key) => key,
            None => {
                let key = Secret(random());
                self.journal.set_fact("ticket_key", &key)?;
                key
            }
        };
        let mut hasher = Sha256::new();
        hasher.update(key.0.to_be_bytes());
        hasher.update(request.id.as_bytes());
        let digest = hasher.finalize();
        Ok(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// What the journal knows a ticket by.
pub(super) fn ticket_hash(text: &str) -> TicketHash {
    Sha256::digest(text.as_bytes()).into()
}
