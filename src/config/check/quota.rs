//! What may lie where: quotas, the largest file of a user, and the reserve.

use toml::de::DeValue;

use super::Check;
use crate::config::quantity::{Misread, Quantity};
use crate::config::raw::{RawUser, Value};
use crate::config::settings::Limits;
use crate::types::{Quota, Reserve};

/// The largest part of a file system that can be left alone.
const RESERVE_PERCENT_MAX: u8 = 99;

impl Check<'_> {
    pub(super) fn reserve(&mut self, value: Option<&Value<'_>>) -> Option<Reserve> {
        const FORM: &str =
            "a part of the file system such as \"5%\" (at most 99%), or a size such as \"10GiB\"";
        let Some(value) = value else { return Some(Reserve::default()) };
        if let DeValue::String(text) = value.get_ref()
            && let Some(percent) = text.trim().strip_suffix('%')
        {
            let percent = percent.trim_end().parse().ok();
            let percent = percent.filter(|percent| *percent <= RESERVE_PERCENT_MAX);
            if percent.is_none() {
                self.must_be("reserve", value, FORM);
            }
            return percent.map(Reserve::Percent);
        }
        match u64::read(value.get_ref()) {
            Ok(bytes) if bytes <= Limits::MAX_FILE_SIZE.max => Some(Reserve::Bytes(bytes)),
            _ => {
                self.must_be("reserve", value, FORM);
                None
            }
        }
    }

    pub(super) fn user_quota(&mut self, label: &str, raw: &RawUser<'_, '_>) -> Option<Quota> {
        let max = Limits::MAX_FILE_SIZE.max;
        let bytes = self.amount(&format!("{label}.quota"), raw.quota, 0, max);
        let count_max = 1_000_000_000_000_usize;
        let names = self.amount(&format!("{label}.quota-files"), raw.quota_files, 0, count_max);
        let names = names.ok()?.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        Some(Quota { bytes: bytes.ok()?, names })
    }

    pub(super) fn user_file_size(
        &mut self,
        label: &str,
        raw: &RawUser<'_, '_>,
    ) -> Result<Option<u64>, ()> {
        let bound = Limits::MAX_FILE_SIZE;
        self.amount(&format!("{label}.max-file-size"), raw.max_file_size, bound.min, bound.max)
    }

    /// A quantity that may be left out; the error is recorded.
    fn amount<T: Quantity>(
        &mut self,
        key: &str,
        value: Option<&Value<'_>>,
        min: T,
        max: T,
    ) -> Result<Option<T>, ()> {
        let Some(value) = value else { return Ok(None) };
        match T::read(value.get_ref()) {
            Ok(quantity) if quantity >= min && quantity <= max => Ok(Some(quantity)),
            Ok(_) | Err(Misread::Range) => {
                let what = format!("between {} and {}", min.show_bound(), max.show_bound());
                self.must_be(key, value, &what);
                Err(())
            }
            Err(Misread::Form) => {
                self.must_be(key, value, T::FORM);
                Err(())
            }
        }
    }
}
