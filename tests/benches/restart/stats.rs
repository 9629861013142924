//! The few statistics that the tables need. All of them are order statistics: times of restarts are skewed and have
//! outliers, so no mean and no deviation appears anywhere.

/// Sorted samples.
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn new(values: impl IntoIterator<Item = f64>) -> Sample {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Sample(values)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least the share `q` of the sample does not exceed.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }

    /// The middle value, or the mean of the two middle ones.
    pub fn median(&self) -> Option<f64> {
        let n = self.0.len();
        let upper = *self.0.get(n / 2)?;
        Some(if n % 2 == 1 { upper } else { self.0[n / 2 - 1].midpoint(upper) })
    }

    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// An interval that holds the median of what the sample was drawn from with at least 95 % probability, whatever its
    /// distribution: the k-th smallest and the k-th largest value, k from the binomial distribution (the sign test turned
    /// round). None below six values, where no such k exists.
    pub fn median_interval(&self) -> Option<(f64, f64)> {
        let n = self.0.len();
        let mut tail = 0.0;
        let mut k = 0;
        // ln of C(n, k) / 2^n, from which the next term follows by one multiplication.
        let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
        while k < n {
            tail += ln_term.exp();
            if tail > 0.025 {
                break;
            }
            ln_term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
            k += 1;
        }
        if k == 0 || 2 * k > n { None } else { Some((self.0[k - 1], self.0[n - k])) }
    }
}
