#!/bin/sh
# The demo, in the commands a user would type. Usage: demo.sh GEDGAN FOLDER
set -eu
gedgan=$1
folder=$2
# The result of an earlier demo is put aside, and comes back if this one does not reach its end.
earlier="$folder.earlier"
back() {
    if [ -d "$earlier" ]; then
        rm -rf "$folder"
        mv "$earlier" "$folder"
        echo "The earlier $folder/ is back."
    fi
}
# One that was killed could not bring it back: then what it left is dropped, not what it had put aside.
if [ -d "$earlier" ]; then rm -rf "$folder"; elif [ -d "$folder" ]; then mv "$folder" "$earlier"; fi
trap back EXIT
trap 'exit 130' HUP INT TERM
mkdir -p "$folder"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[2m$ gedgan %s\033[0m\n' "$*"; "$gedgan" "$@"; }

steps_words() {
    steps=$(sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$folder/run/log.jsonl" | tail -1)
    if [ "$steps" -lt 100 ]; then
        echo "Only $steps steps fitted into three minutes, too few to paint much back; was the machine busy?"
    else
        echo "$steps steps fitted into three minutes."
    fi
}

say "1 of 4: forty variations of one average brain to learn from"
run cohort -n 40 -o "$folder/cohort" --shape 24 32 24 --spacing 6.5
say "2 of 4: alignment, and three minutes of training"
run train "$folder/cohort" -o "$folder/run" --minutes 3
say "3 of 4: four new brains, each with its segmentation"
run synthesize "$folder/run/model.safetensors" -n 4 -o "$folder/synthesized" --scene "$folder/scene.mrb" \
    --beside "$folder/cohort"
cp "$folder/synthesized/contact-sheet.png" "$folder/run/losses.png" "$folder/"
say "4 of 4: the scene as Slicer shows it"
if ! run render "$folder/scene.mrb" -o "$folder/scene.png"; then
    echo "The picture of the scene is left out; everything else is there."
fi

rm -rf "$earlier"

cat <<END

Written to $folder/: scene.mrb (open it in 3D Slicer), synthesized/ (one NIfTI pair a case, ready for nnU-Net),
contact-sheet.png (training cases above, synthesized below), losses.png, scene.png (Slicer's own views), run/model.safetensors.
$(steps_words)
Their anatomy is the template's, moved along the directions in which the cases differ; a network repaints what averaging
took. Longer training and a GPU teach what three minutes cannot. Try next, with your own scans:
  $gedgan check SCANS
  $gedgan train SCANS -o runs/first --minutes 60
  $gedgan synthesize runs/first/model.safetensors -n 8 -o runs/out --scene runs/out/scene.mrb
END
