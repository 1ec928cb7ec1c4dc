//! Lists that are read page by page.

use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// Objects on one page, as in client-go and kubectl.
const PAGE_LIMIT: u32 = 500;

/// A list, read page by page. All pages show the objects as they were when the first page was
/// requested; the server answers 410 where that is too long ago.
pub struct Pages {
    request: Request,
    params: ListParams,
}

/// One page of a list.
pub struct Page<T> {
    /// The objects of the page.
    pub items: Vec<T>,
    /// On the last page only: the resource version of the list, from which a watch continues.
    pub last: Option<String>,
}

/// A page as the API server sends it. kube's own type would log a page that it cannot decode.
#[derive(Deserialize)]
struct Answer<T> {
    #[serde(default)]
    metadata: Metadata,
    items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    resource_version: Option<String>,
    /// The token for the next page.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// The version of the cluster's data at this moment, as a list of the resource at `path` has it.
///
/// # Errors
/// When the server cannot be reached, refuses, or sends no list.
pub async fn current_version(client: &Client, path: &str) -> Result<String, kube::Error> {
    let request = Request::new(path).list(&ListParams::default().limit(1));
    let text = client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
    let list: Answer<IgnoredAny> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
    Ok(list.metadata.resource_version.unwrap_or_default())
}

impl Pages {
    /// The list of the resource at `path`, for example `/api/v1/pods`. With `fields`, only objects
    /// that match this field selector. It is not older than this moment.
    #[must_use]
    pub fn new(path: impl Into<String>, fields: Option<&str>) -> Self {
        let mut params = ListParams::default().limit(PAGE_LIMIT);
        params.field_selector = fields.map(str::to_owned);
        Self { request: Request::new(path), params }
    }

    /// Restricts the list to objects that match this label selector.
    #[must_use]
    pub fn labels(mut self, selector: Option<&str>) -> Self {
        self.params.label_selector = selector.map(str::to_owned);
        self
    }

    /// The next page. After the last one the list starts again.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or sends no page.
    pub async fn next<T: DeserializeOwned>(
        &mut self,
        client: &Client,
    ) -> Result<Page<T>, kube::Error> {
        let request = self.request.list(&self.params).map_err(kube::Error::BuildRequest)?;
        let text = client.request_text(request).await?;
        let page: Answer<T> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        self.params.continue_token = page.metadata.next.filter(|next| !next.is_empty());
        let is_last = self.params.continue_token.is_none();
        Ok(Page {
            items: page.items.unwrap_or_default(),
            last: is_last.then(|| page.metadata.resource_version.unwrap_or_default()),
        })
    }
}
