//! Why each error comes about: what usually lies behind it, in a sentence or two. What is wrong in general and what to
//! do stand in the table of [`orch_proto::codes`].

use orch_proto::codes::ErrorCode;

/// The usual reason; empty for a code that this file does not know yet.
pub(super) fn why(code: ErrorCode) -> &'static str {
    WHY.iter().find(|(known, _)| *known == code.code()).map_or("", |(_, why)| why)
}

const WHY: &[(&str, &str)] = &[
    ("E0101", "a number is out of range, a word is none of those allowed, or two fields exclude each other"),
    (
        "E0102",
        "names become parts of references, file names and labels, so they keep to characters that are safe in all of them",
    ),
    ("E0103", "the text was empty, or nothing came from stdin; a model would be asked nothing"),
    ("E0104", "dependencies name ids of the same run; one was misspelt, or its task was taken out"),
    ("E0105", "ids name tasks within a run, so each may be there once"),
    ("E0106", "without a worker or a runner nobody knows who should do the task"),
    ("E0107", "each of these tasks waits for another of them, so none could ever begin"),
    (
        "E0108",
        "the coordinator's prompts have no worker of this name; they are read at its start and by orchctl workers reload",
    ),
    (
        "E0109",
        "limits keep one request from filling memory or disk: 8 MiB for a prompt, 256 MiB for a run, 1 MiB for a message",
    ),
    (
        "E0110",
        "page tokens belong to one list with one filter, and do not outlive a restart of the coordinator",
    ),
    ("E0111", "unknown fields are refused rather than ignored: a misspelt limit would be no limit"),
    ("E0112", "a comma is missing or too many, a bracket is open, or the file is not UTF-8"),
    ("E0113", "only a model's calls cost money that can be counted; commands and noop have nothing to count"),
    ("E0114", "the schema is handed to the model, which takes one JSON object of limited size"),
    ("E0115", "a run is stored and shown as one thing, and that has its limit"),
    ("E0116", "keys are compared byte by byte and travel in headers"),
    ("E0117", "references are typed and pasted, so their form is strict"),
    (
        "E0118",
        "a gate that cannot be checked would either stop every task or none; a program makes no tool calls, nothing makes files",
    ),
    (
        "E0119",
        "published files land in somebody's own directory, so their paths are strict and each is written by one task",
    ),
    ("E0120", "a condition looks at the structured answer of a dependency, by JSON pointer"),
    (
        "E0121",
        "the file breaks the schema of workflows, a parameter is missing or of another type, or no workflow has this name",
    ),
    ("E0122", "files are published into a directory that agents offer by name, and no name was given"),
    ("E0201", "everything speaks mutual TLS; without a certificate of its own nobody is let in"),
    (
        "E0202",
        "an identity is a URI in the certificate, spiffe://DOMAIN/ROLE/TENANT/NAME; certificates made elsewhere lack it",
    ),
    ("E0203", "each call has the roles that may make it; clients submit and read, admins operate the fleet"),
    ("E0204", "an agent is who its certificate says; another name would let one agent take another's work"),
    (
        "E0205",
        "the two sides trust different authorities, the certificate has expired, or one of the clocks is wrong",
    ),
    ("E0206", "whoever can read the key can act as its owner"),
    (
        "E0301",
        "the reference is misspelt, belongs to another coordinator, or the run was old enough to be removed",
    ),
    (
        "E0302",
        "a key stands for one run for as long as it is remembered; the same key with another run would be ambiguous",
    ),
    ("E0303", "the run or task has moved on, or has not come there yet"),
    ("E0304", "large runs arrive in parts that are kept in memory only until they are complete"),
    ("E0305", "a part was lost on the way, or two senders share one upload"),
    ("E0306", "the event log has a limited length; the state itself is kept"),
    ("E0307", "answers and transcripts are removed after their time"),
    ("E0308", "an attempt that has not begun writes nothing, and old transcripts are removed"),
    (
        "E0309",
        "two agents use one certificate, or an agent was restarted before its old connection was noticed to be dead",
    ),
    ("E0310", "their versions are too far apart"),
    ("E0311", "one side is newer than the other, or is not what it seems"),
    ("E0312", "the bytes were damaged on the way, or changed while they were sent"),
    (
        "E0313",
        "a conversation lives on the agent that had it; it must have ended there, with a session, and the agent be known",
    ),
    (
        "E0314",
        "what an old copy of the data decides could contradict what was decided since; agents obey the latest only",
    ),
    ("E0401", "more is queued than the coordinator was allowed to hold; it refuses rather than fail later"),
    ("E0402", "each different set of requirements has a queue of its own"),
    ("E0403", "below this much space a queue could no longer be written safely"),
    ("E0404", "it refuses quickly rather than answer late"),
    (
        "E0405",
        "a requirement, a program or an agent that was asked for is offered by no agent that ever connected",
    ),
    ("E0406", "somebody set a ceiling, and what was spent of it, or is held for what runs, leaves no room"),
    ("E0501", "nothing listens there, a firewall is in between, or the address is wrong"),
    ("E0502", "it was told to stop, and takes nothing new; what it has taken is on disk"),
    ("E0503", "the command was given so much time; what it looked at goes on without it"),
    ("E0601", "commands run only where the operator of an agent has allowed the very program"),
    ("E0701", "the disk is full or broken, or the files were damaged"),
    ("E0702", "a bug in orch"),
    ("E0703", "an older version would misread it, so it changes nothing"),
    ("E0704", "records are missing or do not have their checksums; nothing is served on a guess"),
    ("E0705", "two coordinators on one directory would overwrite each other"),
    ("E0706", "it belongs to another user, is read-only, or is full"),
    ("E0707", "its agents and its ids are not those of this cluster"),
    ("E0708", "a checksum, a length or the end of it is not as it was written"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_once() {
        for code in ErrorCode::ALL {
            let rows = WHY.iter().filter(|(known, _)| *known == code.code()).count();
            assert_eq!(rows, 1, "{} has {rows} explanations", code.code());
        }
        assert!(WHY.iter().all(|(code, _)| ErrorCode::from_code(code).is_some()));
    }
}
