//! What every chore that measures needs: processes that never stay behind, the machine they run on, results in a file, and
//! tables in a document. Refuses to know what is measured.

pub(crate) mod machine;
pub(crate) mod orchctl;
pub(crate) mod process;
pub(crate) mod results;
pub(crate) mod table;
