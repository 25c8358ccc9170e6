//! A corpus of bad input: what strangers, broken peers and odd hosts may do, each with the answer it must get. The list is
//! `corpus.tsv`; a test checks that every row of it names tests that exist. Meanwhile a client that does nothing wrong
//! goes on working, the coordinator stays the process it was, and neither its memory nor its log runs away.

#![expect(clippy::expect_used, reason = "in a test what must not happen ends the test")]

mod content;
mod corpus;
mod floods;
mod http2;
mod messages;
mod network;
mod overload;
mod processes;
mod raw;
mod sessions;
mod siege;
mod time;
mod tls;
