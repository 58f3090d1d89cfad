"""What each adaptive mechanism could save on given data, before anything is changed."""
