"""The stages, one file each; `drive.stage.all_stages` finds them by looking here."""
