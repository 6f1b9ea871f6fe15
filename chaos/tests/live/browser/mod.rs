//! A real Chromium, headless and on loopback only, with what the tests ask of a page.

mod axe;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chromiumoxide::browser::{Browser, BrowserConfig};
use chromiumoxide::cdp::browser_protocol::emulation::{
    MediaFeature, SetDeviceMetricsOverrideParams, SetEmulatedMediaParams,
};
use chromiumoxide::cdp::browser_protocol::log::EventEntryAdded;
use chromiumoxide::cdp::js_protocol::runtime::{EventConsoleApiCalled, EventExceptionThrown};
use chromiumoxide::page::ScreenshotParams;
use chromiumoxide::{Page, cdp::browser_protocol::page::CaptureScreenshotFormat};
use futures_util::StreamExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be loaded.
const BOUND: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// A browser; ends with `end`.
pub struct Chromium {
    browser: Browser,
    handler: JoinHandle<()>,
    _profile: TempDir,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

pub const LIGHT: Look = Look {
    width: 1200,
    height: 900,
    dark: false,
};
pub const DARK: Look = Look { dark: true, ..LIGHT };
pub const NARROW: Look = Look {
    width: 360,
    height: 740,
    dark: false,
};

/// A page, and what its console says against it.
pub struct Tab {
    page: Page,
    complaints: Arc<Mutex<Vec<String>>>,
    listeners: Vec<JoinHandle<()>>,
}

fn executable() -> PathBuf {
    let path = std::env::var_os("PGBATON_CHROMIUM")
        .map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {}: run 'scripts/setup.sh browser', or set PGBATON_CHROMIUM",
        path.display()
    );
    path
}

impl Chromium {
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut config = BrowserConfig::builder()
            .chrome_executable(executable())
            .user_data_dir(profile.path())
            .new_headless_mode()
            .launch_timeout(BOUND)
            .request_timeout(BOUND)
            .viewport(None)
            // Nothing but this machine: no proxy, no name is looked up, nothing in the background.
            .args(["no-proxy-server", "disable-component-update", "disable-gpu"])
            .arg(("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.*"));
        if nix::unistd::geteuid().is_root() {
            // Chromium refuses to run its sandbox as root; what it opens here is this project's own page.
            config = config.no_sandbox();
        }
        let (browser, mut events) = Browser::launch(config.build().unwrap()).await.unwrap();
        let handler = tokio::spawn(async move { while events.next().await.is_some() {} });
        Self {
            browser,
            handler,
            _profile: profile,
        }
    }

    pub async fn open(&self, url: &str, look: Look) -> Tab {
        let page = self.browser.new_page("about:blank").await.unwrap();
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let listeners = listen(&page, &complaints).await;
        let tab = Tab {
            page,
            complaints,
            listeners,
        };
        tab.look(look).await;
        tab.page.goto(url).await.unwrap();
        tab
    }

    pub async fn end(mut self) {
        self.browser.close().await.unwrap();
        self.browser.wait().await.unwrap();
        self.handler.abort();
    }
}

/// Notes errors of scripts, and what the browser itself complains of (a policy that is broken, a file that is not there).
async fn listen(page: &Page, complaints: &Arc<Mutex<Vec<String>>>) -> Vec<JoinHandle<()>> {
    page.enable_log().await.unwrap();
    page.enable_runtime().await.unwrap();
    let mut entries = page.event_listener::<EventEntryAdded>().await.unwrap();
    let mut thrown = page.event_listener::<EventExceptionThrown>().await.unwrap();
    let mut said = page.event_listener::<EventConsoleApiCalled>().await.unwrap();
    let (first, second, third) = (complaints.clone(), complaints.clone(), complaints.clone());
    vec![
        tokio::spawn(async move {
            while let Some(event) = entries.next().await {
                let entry = &event.entry;
                let text = format!(
                    "{:?} {:?}: {} {:?}",
                    entry.level, entry.source, entry.text, entry.url
                );
                first.lock().unwrap().push(text);
            }
        }),
        tokio::spawn(async move {
            while let Some(event) = thrown.next().await {
                second
                    .lock()
                    .unwrap()
                    .push(format!("thrown: {:?}", event.exception_details));
            }
        }),
        tokio::spawn(async move {
            while let Some(event) = said.next().await {
                third.lock().unwrap().push(format!("console: {:?}", event.args));
            }
        }),
    ]
}

impl Tab {
    pub async fn look(&self, look: Look) {
        let metrics = SetDeviceMetricsOverrideParams::new(look.width, look.height, 1.0, false);
        self.page.execute(metrics).await.unwrap();
        let scheme = if look.dark { "dark" } else { "light" };
        self.emulate("prefers-color-scheme", scheme).await;
    }

    pub async fn emulate(&self, feature: &str, value: &str) {
        let media = SetEmulatedMediaParams::builder().feature(MediaFeature::new(feature, value));
        self.page.execute(media.build()).await.unwrap();
    }

    /// The value of an expression.
    pub async fn ask(&self, script: &str) -> Value {
        let answer = self.page.evaluate_expression(script).await.unwrap();
        answer.value().cloned().unwrap_or(Value::Null)
    }

    /// All text of the elements that match; empty: there is none.
    pub async fn text(&self, selector: &str) -> String {
        let script =
            format!("[...document.querySelectorAll({selector:?})].map(e => e.textContent).join(' | ')");
        self.ask(&script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of the elements that match is as wanted, and gives it.
    pub async fn until(&self, selector: &str, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            let text = self.text(selector).await;
            if holds(&text) {
                return text;
            }
            let all = self.text("body").await;
            assert!(
                Instant::now() < deadline,
                "not within {BOUND:?}: {what}; {selector} says: {text}\n{all}"
            );
            sleep(LOOK).await;
        }
    }

    pub async fn press(&self, key: &str) {
        self.page
            .find_element("body")
            .await
            .unwrap()
            .press_key(key)
            .await
            .unwrap();
    }

    /// What went wrong in this page since the last call.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.complaints.lock().unwrap())
    }

    /// What axe finds that is serious or critical.
    pub async fn barriers(&self) -> Vec<String> {
        axe::serious(self).await
    }

    /// The whole page as WebP.
    pub async fn picture(&self) -> Vec<u8> {
        let params = ScreenshotParams::builder()
            .format(CaptureScreenshotFormat::Webp)
            .quality(85)
            .full_page(true);
        self.page.screenshot(params.build()).await.unwrap()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}
