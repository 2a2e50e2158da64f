"""What people look at: pictures of runs and comparisons, and a report in one HTML file."""
