-- What wrk has measured, as one line of JSON.  wrk's own report has no 99.9th percentile.

function done(summary, latency, requests)
	local errors = summary.errors
	io.write(string.format(
		'{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f}\n',
		summary.requests, summary.duration / 1e6,
		errors.connect + errors.read + errors.write + errors.status + errors.timeout,
		latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
