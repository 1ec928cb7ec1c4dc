//! One page of a list, as an API server sends it.

use portcullis_crds::lean::{Lean, LeanKind};
use serde::Deserialize;

/// Objects on one page of a list, as for client-go.
pub(super) const PAGE_LIMIT: u32 = 500;

/// One page of a list. Its objects cannot fail to decode; kube's own list would log the page.
#[derive(Deserialize)]
pub(super) struct Page<K: LeanKind> {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    #[serde(bound = "")]
    pub(super) items: Option<Vec<Lean<K>>>,
}

/// What a page says about the list.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMetadata {
    /// The version that a watch continues from.
    pub(super) resource_version: Option<String>,
    /// The token for the next page.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}
