//! What is measured, and beside what.

use serde::{Deserialize, Serialize};

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// A plain tonic service that answers with what it was sent.
    Echo,
    Get,
    List,
    Create,
    Ticket,
    Delete,
    /// To the attach socket, and away again.
    Connect,
    /// An attach with a ticket that nobody issued.
    Refusal,
    /// To a fresh lane without a consumer.
    ProducerAlone,
    /// To a fresh lane with one.
    ProducerJoins,
    /// To a lane that had a producer, with a consumer.
    ProducerAgain,
    ConsumerAlone,
    ConsumerJoins,
    /// The same until it has received the message that waits for it.
    ConsumerReceives,
    ConsumerAgain,
    /// The same until it has received a message, if it asks for it all the time.
    ConsumerAsks,
    ProducerLeaves,
    ConsumerLeaves,
    /// A process of this program from its start to its first byte on a pipe.
    Process,
    /// The same to its first message in a lane.
    FirstMessage,
    /// iceoryx2: opening a service that is there.
    IceoryxOpen,
    /// The same and a publisher.
    IceoryxPublisher,
    /// The same and a subscriber.
    IceoryxSubscriber,
}

impl What {
    /// As tables name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "plain tonic echo, 64 B",
            Self::Get => "get a lane",
            Self::List => "list all lanes",
            Self::Create => "create a lane",
            Self::Ticket => "issue a ticket",
            Self::Delete => "delete a lane",
            Self::Connect => "connect to the attach socket",
            Self::Refusal => "attach that is refused",
            Self::ProducerAlone => "attach producer, no consumer there",
            Self::ProducerJoins => "attach producer, consumer there",
            Self::ProducerAgain => "attach producer's successor",
            Self::ConsumerAlone => "attach consumer, no producer there",
            Self::ConsumerJoins => "attach consumer, producer there",
            Self::ConsumerReceives => "attach consumer, first message received",
            Self::ConsumerAgain => "attach consumer's successor",
            Self::ConsumerAsks => "attach consumer, message asked for",
            Self::ProducerLeaves => "detach producer",
            Self::ConsumerLeaves => "detach consumer",
            Self::Process => "fresh process to first byte on a pipe",
            Self::FirstMessage => "fresh process to first message in a lane",
            Self::IceoryxOpen => "iceoryx2: open",
            Self::IceoryxPublisher => "iceoryx2: open, publisher",
            Self::IceoryxSubscriber => "iceoryx2: open, subscriber",
        }
    }

    /// Whether an end comes to a lane whose other end is there.
    pub(crate) fn joins_live_lane(self) -> bool {
        matches!(
            self,
            Self::ProducerJoins | Self::ConsumerJoins | Self::ConsumerReceives | Self::ConsumerAsks
        )
    }

    /// What it is set against, if that was measured with as many callers in the same round, and
    /// the short name of that.
    pub(crate) fn yardstick(self) -> Option<(Self, &'static str)> {
        match self {
            Self::Get | Self::List | Self::Create | Self::Ticket | Self::Delete => {
                Some((Self::Echo, "echo"))
            }
            Self::Refusal => Some((Self::Connect, "connect")),
            Self::ProducerAlone | Self::ProducerJoins | Self::ProducerAgain => {
                Some((Self::IceoryxPublisher, "iceoryx2"))
            }
            Self::ConsumerAlone
            | Self::ConsumerJoins
            | Self::ConsumerReceives
            | Self::ConsumerAgain => Some((Self::IceoryxSubscriber, "iceoryx2")),
            Self::FirstMessage => Some((Self::Process, "process")),
            _ => None,
        }
    }
}
